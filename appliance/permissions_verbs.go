package main

// verbRow is a row for verbs of the command line and the operations they ask the server for, or do here when there is none.
type verbRow struct {
	verbs      string // separated by ", "
	operations string // separated by blanks
	access
}

// verbTable is who may do which verb. Verbs that are anyone's touch no state of a deployment, or are what makes one.
var verbTable = []verbRow{
	{"demo, init, serve, roles apart, sign, attest, verify, policy init, policy test, policy explain, policy import, policy schema, version, docs, completion, hsm-worker, hsm-survey", "", anyone},
	{"ceremony plan, ceremony digest, ceremony operator new, ceremony operator show, ceremony approve, ceremony rehearse, ceremony run, ceremony sign, ceremony verify, ceremony diff, ceremony register", "", anyone},
	{"admission serve, admission manifests, admission propose, inventory", "", anyone},
	{"keys attestation, keys seal, approve sign, log verify, log resubmit, mirror evidence, mirror evidence verify, mirror send, mirror inspect", "", anyone},
	{"bundle build, bundle unpack, bundle verify, backup key, backup verify, standby follow, standby status, config validate, config show, config schema", "", anyone},

	// What a machine's root does to its programs, and what its data is; serve migrates as these do.
	{"preflight, upgrade, uninstall, state show, state migrate", "", anyone},

	{"status, doctor", "status", everybody},
	{"client setup, log info, log get, log search, log proof, log export", "client.trust log.info log.get log.search log.proof log.copy", everybody},
	{"keys list, ca chain, ca issued, tsa chain, tsa status, tls show, trust status", "keys.list chain ca.issued tsa.status tls.show trust.status", everybody},
	{"mirror status, mirror artifacts list, mirror artifacts get, mirror trust show, mirror trust history, mirror trust export", "mirror.status mirror.progress mirror.artifacts.list mirror.artifacts.get mirror.trust.show mirror.trust.history mirror.trust.export", everybody},
	{"mirror evidence list, mirror evidence show, mirror claims, mirror coverage, mirror media, mirror exporter list", "mirror.evidence mirror.evidence.show mirror.claims mirror.coverage mirror.media mirror.exporters", everybody},
	{"mirror observed, mirror watch list, mirror quarantine list, mirror quarantine show, mirror key", "mirror.observed mirror.watch.list mirror.quarantine mirror.quarantine.show mirror.key", everybody},
	{"approve list, approve show, identity list, identity explain", "approve.list identity.list identity.explain", everybody},

	{"audit list, audit verify", "audit.list audit.verify", auditors},
	{"log fsck, mirror fsck, mirror artifacts check", "log.fsck mirror.fsck mirror.artifacts.check", auditors},

	{"keys check, keys attest, tls renew, trust publish, trust renew, log resume, log mark", "keys.check keys.attest tls.renew trust.publish trust.renew", operators},
	{"mirror pull, mirror export, mirror import, mirror receive, mirror reconcile, mirror plan, mirror accept-clock", "mirror.pull mirror.export mirror.import mirror.look mirror.reconcile mirror.plan mirror.accept-clock", operators},
	{"mirror receipt read, mirror compare, mirror watch scan, mirror watch ack, mirror artifacts push", "mirror.receipt.read mirror.compare mirror.watch.scan mirror.watch.ack mirror.artifacts.push", operators},
	{"mirror exporter announce, mirror exporter continue, approve drop", "mirror.announce mirror.continue approve.drop", operators},
	{"mirror receipt, mirror heads, mirror picklist", "mirror.receipt mirror.heads mirror.picklist", leaving},
	{"backup create", "backup.create", keepers},
	{"config reload", "config.reload", ofReloads},

	{"keys rotate, ca rotate, tsa rotate, trust rotate, log rotate", "keys.rotate keys.finish", ofSeveral},
	{"identity token, identity deny, identity allow, identity reveal", "identity.token identity.deny identity.allow identity.reveal", ofSeveral},
	{"ca issue", "ca.issue", ofSeveral},
	{"mirror unfreeze, mirror quarantine release, mirror exporter accept", "mirror.unfreeze mirror.release mirror.accept-exporter", ofSeveral},
	{"log retire, backup restore, standby promote", "", ofRecovery},
}
