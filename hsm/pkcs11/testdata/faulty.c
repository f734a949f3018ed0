/* A PKCS#11 module that is SoftHSM with faults. It is built and used by the
 * tests only. The file named by FAULTY_CONTROL holds the words of the faults
 * that are in force; it is read on every call.
 *
 *   hang         C_Sign does not return while the word stands
 *   flip         C_Sign alters the signature
 *   device-error C_Sign answers CKR_DEVICE_ERROR
 *   busy-session C_SignInit answers CKR_OPERATION_ACTIVE
 *   extractable  every key reads back as extractable
 *   old-module   a template with CKA_COPYABLE is refused
 *   few-sessions no more than four sessions
 *   final-try    the token says one PIN try is left
 *   removed      C_Sign answers CKR_DEVICE_REMOVED, and the sessions are gone
 *   closed       C_Sign answers CKR_SESSION_HANDLE_INVALID, and the sessions are gone
 *   finalized    C_Sign answers CKR_CRYPTOKI_NOT_INITIALIZED, and it is
 *   logout       C_Sign answers CKR_USER_NOT_LOGGED_IN, and nobody is
 *   general      C_Sign answers CKR_GENERAL_ERROR
 *   crash        C_Sign writes to address 0
 *   login-hangs  C_Login does not return while the word stands, then logs in
 *   login-dies   C_Login ends the process after the PIN was looked at
 *   no-eddsa     the mechanism list lacks CKM_EDDSA
 *
 * Each C_Login appends an octet to FAULTY_CONTROL.logins.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "pkcs11go.h"

static CK_FUNCTION_LIST real, mine;
static int sessions;
static int *volatile nowhere;

static int fault(const char *word) {
	char text[256] = {0};
	const char *path = getenv("FAULTY_CONTROL");
	FILE *f = path ? fopen(path, "r") : NULL;
	if (!f)
		return 0;
	size_t n = fread(text, 1, sizeof text - 1, f);
	(void)n;
	fclose(f);
	return strstr(text, word) != NULL;
}

static CK_RV close_all(CK_SLOT_ID slot) {
	CK_RV rv = real.C_CloseAllSessions(slot);
	if (rv == CKR_OK)
		sessions = 0;
	return rv;
}

static CK_RV finalize(CK_VOID_PTR p) {
	sessions = 0;
	return real.C_Finalize(p);
}

static CK_RV sign(CK_SESSION_HANDLE s, CK_BYTE_PTR data, CK_ULONG len, CK_BYTE_PTR sig, CK_ULONG_PTR siglen) {
	while (fault("hang"))
		usleep(2000);
	if (fault("device-error"))
		return CKR_DEVICE_ERROR;
	if (fault("general"))
		return CKR_GENERAL_ERROR;
	if (fault("crash"))
		*(volatile int *)nowhere = 1;
	if (fault("finalized")) {
		finalize(NULL);
		return CKR_CRYPTOKI_NOT_INITIALIZED;
	}
	if (fault("logout")) {
		real.C_Logout(s);
		return CKR_USER_NOT_LOGGED_IN;
	}
	int removed = fault("removed"); /* which ends every session (PKCS#11 v2.40, 5.1.4) */
	if (removed || fault("closed")) {
		CK_SESSION_INFO info;
		if (real.C_GetSessionInfo(s, &info) == CKR_OK)
			close_all(info.slotID);
		return removed ? CKR_DEVICE_REMOVED : CKR_SESSION_HANDLE_INVALID;
	}
	CK_RV rv = real.C_Sign(s, data, len, sig, siglen);
	if (rv == CKR_OK && sig && fault("flip"))
		sig[*siglen - 1] ^= 1;
	return rv;
}

static CK_RV sign_init(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k) {
	return fault("busy-session") ? CKR_OPERATION_ACTIVE : real.C_SignInit(s, m, k);
}

static CK_RV get_attribute(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR a, CK_ULONG n) {
	CK_RV rv = real.C_GetAttributeValue(s, o, a, n);
	for (CK_ULONG i = 0; rv == CKR_OK && i < n; i++)
		if (a[i].type == CKA_EXTRACTABLE && a[i].pValue && a[i].ulValueLen == 1 && fault("extractable"))
			*(CK_BBOOL *)a[i].pValue = CK_TRUE;
	return rv;
}

static CK_RV generate(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR pub, CK_ULONG npub, CK_ATTRIBUTE_PTR priv, CK_ULONG npriv, CK_OBJECT_HANDLE_PTR hpub, CK_OBJECT_HANDLE_PTR hpriv) {
	for (CK_ULONG i = 0; i < npriv; i++)
		if (priv[i].type == CKA_COPYABLE && fault("old-module"))
			return CKR_ATTRIBUTE_TYPE_INVALID;
	return real.C_GenerateKeyPair(s, m, pub, npub, priv, npriv, hpub, hpriv);
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, CK_VOID_PTR app, CK_NOTIFY notify, CK_SESSION_HANDLE_PTR s) {
	if (sessions >= 4 && fault("few-sessions"))
		return CKR_SESSION_COUNT;
	CK_RV rv = real.C_OpenSession(slot, flags, app, notify, s);
	if (rv == CKR_OK)
		__sync_fetch_and_add(&sessions, 1);
	return rv;
}

static CK_RV close_session(CK_SESSION_HANDLE s) {
	CK_RV rv = real.C_CloseSession(s);
	if (rv == CKR_OK)
		__sync_fetch_and_sub(&sessions, 1);
	return rv;
}

static CK_RV token_info(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info) {
	CK_RV rv = real.C_GetTokenInfo(slot, info);
	if (rv == CKR_OK)
		info->ulSessionCount = sessions; /* SoftHSM does not say */
	if (rv == CKR_OK && fault("final-try"))
		info->flags |= CKF_USER_PIN_FINAL_TRY;
	return rv;
}

static CK_RV login(CK_SESSION_HANDLE s, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG len) {
	char path[512];
	const char *control = getenv("FAULTY_CONTROL");
	FILE *f;
	if (control && snprintf(path, sizeof path, "%s.logins", control) < (int)sizeof path && (f = fopen(path, "a"))) {
		fputc('l', f);
		fclose(f);
	}
	while (fault("login-hangs"))
		usleep(2000);
	CK_RV rv = real.C_Login(s, user, pin, len);
	if (fault("login-dies"))
		_exit(9);
	return rv;
}

static CK_RV mechanisms(CK_SLOT_ID slot, CK_MECHANISM_TYPE_PTR list, CK_ULONG_PTR n) {
	CK_RV rv = real.C_GetMechanismList(slot, list, n);
	for (CK_ULONG i = 0; rv == CKR_OK && list && i < *n; i++)
		if (list[i] == 0x1057 && fault("no-eddsa"))
			list[i] = CKM_SHA256;
	return rv;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out) {
	CK_FUNCTION_LIST_PTR list;
	void *lib = dlopen("/usr/lib/softhsm/libsofthsm2.so", RTLD_NOW);
	CK_C_GetFunctionList get = lib ? (CK_C_GetFunctionList)dlsym(lib, "C_GetFunctionList") : NULL;
	if (!get || get(&list) != CKR_OK)
		return CKR_GENERAL_ERROR;
	real = *list;
	mine = real;
	mine.C_GetFunctionList = C_GetFunctionList;
	mine.C_Sign = sign;
	mine.C_SignInit = sign_init;
	mine.C_GetAttributeValue = get_attribute;
	mine.C_GenerateKeyPair = generate;
	mine.C_OpenSession = open_session;
	mine.C_CloseSession = close_session;
	mine.C_CloseAllSessions = close_all;
	mine.C_Login = login;
	mine.C_Finalize = finalize;
	mine.C_GetTokenInfo = token_info;
	mine.C_GetMechanismList = mechanisms;
	*out = &mine;
	return CKR_OK;
}
