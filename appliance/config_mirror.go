package main

// Mirror is what crosses the gap, in both directions.
type Mirror struct {
	// Stream is the stream of parcels taken in; left out, nothing is imported.
	Stream string `yaml:"stream,omitempty"`
	// Exporters are the keys whose parcels are taken: C2SP note verifier lines, as `redoubt mirror key` prints them outside.
	Exporters []string `yaml:"exporters,omitempty"`
	// ExportStream names the stream of parcels made here (default the domain).
	ExportStream string `yaml:"export-stream,omitempty"`
	// Logs are the public logs that are carried or kept.
	Logs []MirrorLog `yaml:"logs,omitempty"`
	// TUF are the TUF repositories (roots of trust) that are carried or kept.
	TUF []MirrorTUF `yaml:"tuf,omitempty"`
	// Follow has the logs carried and kept that the trusted root of a repository names, so that a new shard needs no configuration.
	Follow []MirrorFollow `yaml:"follow,omitempty"`
	// Floors are the smallest sizes at which logs may begin here, by origin, in place of those shipped for public logs that are known. A first
	// state below its floor is refused, so that a new installation cannot be begun in the past. Outside and inside.
	Floors map[string]uint64 `yaml:"floors,omitempty"`
	// Images are those of which what vouches for them is carried: signatures, attestations, bills of materials, and the log entries that
	// these name, picked from the logs at scope sparse. The images themselves go another way.
	Images []MirrorImages `yaml:"images,omitempty"`
	// Picklist is a file that `redoubt mirror picklist` wrote inside (relative to the state directory): what it selects of a log takes the
	// place of that log's select, and the images it names that of images[].references of their registry. Outside only.
	Picklist string `yaml:"picklist,omitempty"`
	// Proxy is the URL of the proxy that logs on the network are read through; left out, the environment's HTTPS_PROXY, HTTP_PROXY and
	// NO_PROXY say, and "direct" says none. Without user and password: where the proxy wants them, set the environment. Outside only.
	Proxy string `yaml:"proxy,omitempty"`
	// CAFile holds the roots, in PEM, that the servers of logs are believed by, instead of the machine's. Outside only.
	CAFile string `yaml:"ca-file,omitempty"`
	// Rate is the largest number of requests a second to one host (0: no limit). Outside only.
	Rate float64 `yaml:"rate,omitempty"`
	// AtOnce is the largest number of requests to one host under way (0: 8). Outside only.
	AtOnce int `yaml:"at-once,omitempty"`
	// Contact tells the operators of logs whom to ask, an e-mail address or a URL; it is sent with every request. Outside only.
	Contact string `yaml:"contact,omitempty"`
	// Receivers are the keys of the insides whose receipts are believed: the lines `redoubt mirror key --reports` prints there. Outside
	// only.
	Receivers []string `yaml:"receivers,omitempty"`
	// UnacknowledgedWarn is how many parcels may wait for a receipt of every receiver before each export and the status warn (0: never).
	// Outside only.
	UnacknowledgedWarn uint64 `yaml:"unacknowledged-warn,omitempty"`
	// Peers are the keys of other enclaves whose receipts and heads are compared with ours, as `redoubt mirror key --reports` prints
	// them there. Inside only.
	Peers []string `yaml:"peers,omitempty"`
	// OutboundApprovals is how many of the approvers have to agree to every receipt, file of heads and picklist before it leaves (0:
	// nobody is asked); no more than approvers.threshold, which is what is demanded then. Inside only.
	OutboundApprovals int `yaml:"outbound-approvals,omitempty"`
	// Watch names entries that must not appear in a mirrored log unnoticed: who signs as us outside. Inside only.
	Watch []MirrorWatch `yaml:"watch,omitempty"`
	// Interval is how often the running server reconciles (0: only by verb or timer).
	Interval Duration `yaml:"interval,omitempty"`
	// Reconcile says what reconcile looks at beside what is stored. Inside only.
	Reconcile MirrorReconcile `yaml:"reconcile,omitempty"`
	// Hosts give mirrored logs host names of their own, besides <name>.<host of the mirror service>: host name to the log's origin, or to
	// the host of a Rekor v1 server, all trees of which are read there. The listener's certificate must name them. Inside only.
	Hosts map[string]string `yaml:"hosts,omitempty"`
	// Quota bounds the bytes one parcel may unpack to (0: the free space of the disk).
	Quota int64 `yaml:"quota,omitempty"`
	// Inbox is a folder that volumes, or shards of volumes, arrive in by themselves. Left out, media are imported by hand.
	Inbox *MirrorInbox `yaml:"inbox,omitempty"`
}

// MirrorInbox is a folder that is looked at. Parcels are imported in order once all their volumes are there; volumes are never removed.
type MirrorInbox struct {
	// Dir is the folder (relative to the state directory). Who writes there needs no other right here.
	Dir string `yaml:"dir"`
	// Every is how often the running server looks (0: only by `redoubt mirror import --inbox`, or its timer).
	Every Duration `yaml:"every,omitempty"`
	// Settle is how long a file must have been left alone before it is read; one that looks as at the look before has been.
	Settle Duration `yaml:"settle,omitempty"`
	// Done is a folder on the same file system that imported volumes are moved to; left out, they stay.
	Done string `yaml:"done,omitempty"`
	// Diode puts volumes together from the shards that `redoubt mirror send` made, in DIR/mirror/received.
	Diode bool `yaml:"diode,omitempty"`
	// Quota bounds the bytes of volumes put together from shards and not imported yet (0: the free space of the disk).
	Quota int64 `yaml:"quota,omitempty"`
	// Sweep removes the shards of volumes that were imported; left out, shards stay as well.
	Sweep bool `yaml:"sweep,omitempty"`
	// SweepAge is how long a shard of a volume that never was imported may lie there, where Sweep is on (0: for ever).
	SweepAge Duration `yaml:"sweep-age,omitempty"`
}

// MirrorLog is one public log and the one key it is believed by.
type MirrorLog struct {
	// Origin is the first line of the log's checkpoints.
	Origin string `yaml:"origin"`
	// FormerOrigins are first lines under which the same log signed earlier.
	FormerOrigins []string `yaml:"former-origins,omitempty"`
	// Key is the log's public key: a C2SP note verifier line, or the PEM text of an ECDSA or Ed25519 key.
	Key string `yaml:"key,omitempty"`
	// Trust names the repository under mirror.tuf whose trusted root says which key the log has, in place of Key.
	Trust string `yaml:"trust,omitempty"`
	// FormerKeys signed for the same log earlier, each as Key. Nothing new is taken under them; they verify what was taken then.
	FormerKeys []string `yaml:"former-keys,omitempty"`
	// Scope is full (every entry, the default), sparse (the records picked, each proven) or spine (every step proven, no entries).
	Scope string `yaml:"scope,omitempty"`
	// Records are the numbers of entries to pick at scope sparse. Outside.
	Records []uint64 `yaml:"records,omitempty"`
	// Lookups are modules of the Go checksum database to pick the records of at scope sparse, as module@version. Outside.
	Lookups []string `yaml:"lookups,omitempty"`
	// Select picks entries at scope sparse by what they say. Outside it is what is picked; inside it is what `redoubt mirror picklist` asks
	// the outside for, once people let it out.
	Select *MirrorSelect `yaml:"select,omitempty"`
	// Source is where the outside reads the log: an http(s) URL or a directory. Left out inside.
	Source string `yaml:"source,omitempty"`
	// Layout is tiles (C2SP tlog-tiles and Rekor v2, the default), sumdb (the Go checksum database), static-ct (Certificate
	// Transparency, C2SP static-ct-api; the log's key signs in another way, so say it inside as well) or rekor1 (the API of Rekor v1; its
	// origin is "<host> - <tree id>", one log here for each tree).
	Layout string `yaml:"layout,omitempty"`
	// FirstIndex is how many entries the shards before this one of a Rekor v1 site have, where that is known: entries numbered otherwise
	// are refused, outside and inside.
	FirstIndex *uint64 `yaml:"first-index,omitempty"`
	// Frozen pins a shard that takes no more entries: if it is ever shown larger, or with another root, that is an alarm. Outside and inside.
	Frozen *MirrorFrozen `yaml:"frozen,omitempty"`
	// MaxAge is how old the last state may be before the log is called stale (0: no limit).
	MaxAge Duration `yaml:"max-age,omitempty"`
	// Stale says what the age of the last state does.
	Stale MirrorStale `yaml:"stale,omitempty"`
	// WitnessPolicy says which witnesses must have cosigned a checkpoint of this log before it is believed, outside and inside: a
	// C2SP tlog-policy as a file (relative to the state directory), or as text here. Left out, the log's own signature is enough.
	WitnessPolicy string `yaml:"witness-policy,omitempty"`
}

// MirrorImages names images, and outside the one place where they are looked up. Inside the references are what `redoubt mirror picklist`
// asks the outside for.
type MirrorImages struct {
	// References are HOST/NAME:TAG, HOST/NAME@sha256:HEX or both in one. A tag is resolved at each pull, which says to what.
	References []string `yaml:"references,omitempty"`
	// ReferencesFile holds more of them, one a line (relative to the state directory).
	ReferencesFile string `yaml:"references-file,omitempty"`
	// Registry is the one registry that is read, as HOST or HOST:PORT. Outside only.
	Registry string `yaml:"registry,omitempty"`
	// Also are other hosts the registry may send us to: its token server, the store of its blobs. Any other is refused. Outside only.
	Also []string `yaml:"also,omitempty"`
	// PlainHTTP allows http to them; to loopback it is always allowed. Outside only.
	PlainHTTP bool `yaml:"plain-http,omitempty"`
	// CAFile holds the roots, in PEM, that the registry is believed by, instead of those of the logs' servers. Outside only.
	CAFile string `yaml:"ca-file,omitempty"`
	// DockerConfig is a folder with docker's config.json, whose credentials for the registry (or the helper it names) are used (relative to
	// the state directory); left out, it is read without. Outside only.
	DockerConfig string `yaml:"docker-config,omitempty"`
	// Layout is a folder with an OCI layout that is read in place of a registry (relative to the state directory); without references every
	// image in it is meant. Outside only.
	Layout string `yaml:"layout,omitempty"`
}

// MirrorFrozen is where a shard stopped.
type MirrorFrozen struct {
	// Size is the number of its entries.
	Size uint64 `yaml:"size"`
	// Root is its root hash, in hex.
	Root string `yaml:"root"`
}

// MirrorTUF is one TUF repository and the root it is believed from.
type MirrorTUF struct {
	// Name is what both sides call it; inside it is served again at /tuf/<name>/ of the mirror, under a root of our own.
	Name string `yaml:"name"`
	// Root is the file of a root.json that came by a trusted way (relative to the state directory). For public-good: version 5 or later.
	Root string `yaml:"root"`
	// Source is where the outside reads the repository: an http(s) URL or a directory. Left out inside.
	Source string `yaml:"source,omitempty"`
	// Floors are the lowest versions that are taken. Left out, those shipped for the name: public-good has root 15, timestamp 762.
	Floors *MirrorFloors `yaml:"floors,omitempty"`
	// Stale says what the age of the last state does. At deny-all the repository is not served as a root of trust any more.
	Stale MirrorStale `yaml:"stale,omitempty"`
}

// MirrorFloors are the lowest versions of a TUF repository's roles that are taken (0: any).
type MirrorFloors struct {
	Root      int64 `yaml:"root,omitempty"`
	Timestamp int64 `yaml:"timestamp,omitempty"`
	Snapshot  int64 `yaml:"snapshot,omitempty"`
	Targets   int64 `yaml:"targets,omitempty"`
}

// MirrorStale says what happens as the last observed state gets older (0: nothing). There is no switch that ignores age or expiry.
type MirrorStale struct {
	// Warn is the age at which status and reconcile say so.
	Warn Duration `yaml:"warn,omitempty"`
	// DenyNew is the age from which what was signed after the state was observed is not accepted by it.
	DenyNew Duration `yaml:"deny-new,omitempty"`
	// DenyAll is the age from which nothing is accepted by it.
	DenyAll Duration `yaml:"deny-all,omitempty"`
}

// MirrorFollow takes the logs a trusted root names, those of Rekor v2 from where it says they are.
type MirrorFollow struct {
	// TUF names the repository under mirror.tuf.
	TUF string `yaml:"tuf"`
	// Scope is that of every log: full (the default), sparse or spine.
	Scope string `yaml:"scope,omitempty"`
	// Except are host names of logs that are not taken.
	Except []string `yaml:"except,omitempty"`
	// MaxAge is how old the last state of a log may be before it is called stale (0: no limit).
	MaxAge Duration `yaml:"max-age,omitempty"`
	// Stale says what the age of the last state of a log does.
	Stale MirrorStale `yaml:"stale,omitempty"`
}

// MirrorSelect says which entries of a log are wanted. A log with tiles is looked through outside, so that nobody learns what is looked
// for; the index of a Rekor v1 log is asked, and its operator learns each digest and name.
type MirrorSelect struct {
	// Digests are of artefacts, "sha256:" and hex digits.
	Digests []string `yaml:"digests,omitempty"`
	// DigestsFile holds more of them, one a line (relative to the state directory).
	DigestsFile string `yaml:"digests-file,omitempty"`
	// Identities are regular expressions that match a whole name in a signer's certificate. With issuers, a signer has to match both.
	Identities []string `yaml:"identities,omitempty"`
	// Issuers are regular expressions that match the whole issuer of the signer's identity token.
	Issuers []string `yaml:"issuers,omitempty"`
	// Purls are package URLs: pkg:golang/<module>@<version> is looked up in the Go checksum database; pkg:oci/<name>@sha256:<hex> and the
	// qualifier checksum=sha256:<hex> are digests.
	Purls []string `yaml:"purls,omitempty"`
	// Bundles are files of Sigstore bundles, or folders of them (relative to the state directory): the entries of this log they name.
	Bundles []string `yaml:"bundles,omitempty"`
	// Pad is how many other entries are asked for with each one that is asked for by its number (0 to 64): which were wanted then nobody can tell.
	Pad int `yaml:"pad,omitempty"`
}
