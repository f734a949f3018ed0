package mirror

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"redoubt.internal/log/store"
)

// InboxStatus says what the inbox held when it was last looked at. Its JSON form is stable.
type InboxStatus struct {
	Parcels []InboxParcel `json:"parcels"`
	Files   []InboxFile   `json:"files"` // all that are not simply volumes of a parcel above
}

// InboxStatus reads what the last look found; nil before the first, and when the inbox was empty.
func (m *Mirror) InboxStatus() (*InboxStatus, error) {
	var files []InboxFile
	var last streamState
	err := m.c.DB.View(func(tx store.Tx) error {
		files = nil
		if _, err := get(tx, keyStream, &last); err != nil {
			return err
		}
		return scan(tx, keyInbox, func(_ string, f InboxFile) error { files = append(files, f); return nil })
	})
	if err != nil || len(files) == 0 {
		return nil, err
	}
	var out InboxStatus
	out.Parcels, out.Files = summary(files, last.Sequence)
	return &out, nil
}

// summary groups files into parcels, by number, and lists apart what is no volume.
func summary(files []InboxFile, last uint64) (parcels []InboxParcel, others []InboxFile) {
	parcels, others = []InboxParcel{}, []InboxFile{}
	groups := make(map[string][]int)
	for i, f := range files {
		if f.Volume == 0 {
			others = append(others, f)
			continue
		}
		groups[f.Parcel.String()] = append(groups[f.Parcel.String()], i)
	}
	for _, members := range groups {
		f := files[members[0]]
		p := InboxParcel{Sequence: f.Sequence, Digest: f.Parcel, Volumes: f.Volumes, Missing: missing(files, members), Code: f.Code, Detail: f.Detail}
		p.State = f.State
		switch {
		case f.State == FileImported:
			p.Missing = nil // what arrived was imported with what had arrived before
		case f.State == FileRefused:
		case len(p.Missing) > 0:
			p.State = "waiting for volumes " + numbers(p.Missing)
		case f.Sequence > last+1:
			p.State = "waiting for parcels " + span(last+1, f.Sequence-1)
		default:
			if p.State = "ready"; p.Code == 20 {
				p.Code, p.Detail = 0, "" // what it waited for came in
			}
		}
		parcels = append(parcels, p)
	}
	slices.SortFunc(parcels, func(a, b InboxParcel) int {
		return cmp.Or(cmp.Compare(a.Sequence, b.Sequence), cmp.Compare(a.Digest.String(), b.Digest.String()))
	})
	slices.SortFunc(others, func(a, b InboxFile) int { return cmp.Compare(a.Path, b.Path) })
	return parcels, others
}

// numbers lists at most 20 numbers.
func numbers(list []int) string {
	var out []string
	for i, n := range list {
		if i == 20 {
			out = append(out, fmt.Sprintf("and %d more", len(list)-i))
			break
		}
		out = append(out, fmt.Sprint(n))
	}
	return strings.Join(out, ", ")
}

func span(first, last uint64) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d to %d", first, last)
}
