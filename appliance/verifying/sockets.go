package verifying

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// denySockets has the kernel refuse this process, and whatever it starts, every socket from now on (EACCES), by a seccomp filter (seccomp(2)) over
// all its threads. What is open already stays open. There is no way back.
func denySockets() error {
	native, ok := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if !ok {
		return fmt.Errorf("sockets cannot be refused on %s", runtime.GOARCH)
	}
	const load, jumpEqual, jumpAtLeast, answer = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	// struct seccomp_data begins with the number of the call, then the architecture. Another architecture numbers its calls in another way, and so
	// does x32, from 1<<30: both are refused whole. io_uring opens sockets without a call of that name.
	filter := []unix.SockFilter{
		{Code: load, K: 4},
		{Code: jumpEqual, Jf: 6, K: native},
		{Code: load, K: 0},
		{Code: jumpAtLeast, Jt: 4, K: 1 << 30},
		{Code: jumpEqual, Jt: 3, K: unix.SYS_SOCKET},
		{Code: jumpEqual, Jt: 2, K: unix.SYS_SOCKETPAIR},
		{Code: jumpEqual, Jt: 1, K: unix.SYS_IO_URING_SETUP},
		{Code: answer, K: unix.SECCOMP_RET_ALLOW},
		{Code: answer, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EACCES)},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread() // the filter asks for the privilege bit of the thread that sets it
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("giving up new privileges: %w", err)
	}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("refusing sockets: %w", errno)
	}
	if thread != 0 {
		return fmt.Errorf("refusing sockets: thread %d does not take the filter", thread)
	}
	return nil
}
