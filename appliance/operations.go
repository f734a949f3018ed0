package main

// operations are the verbs the control socket answers.
func operations() []operation {
	return []operation{
		mintToken.operation(), identityDeny.operation(), identityAllow.operation(), identityList.operation(), identityExplain.operation(), identityReveal.operation(),
		listKeys.operation(), checkKeys.operation(), rotateKey.operation(), finishRotation.operation(), attestKey.operation(),
		logInfos.operation(), logGet.operation(), logSearch.operation(), logProve.operation(), logFsck.operation(), logCopy.operation(),
		auditList.operation(), auditVerify.operation(),
		chains.operation(), notationIssue.operation(), issuedList.operation(), tsaStatus.operation(),
		clientTrust.operation(), trustStatus.operation(), trustRenew.operation(), trustPublish.operation(),
		mirrorKey.operation(), mirrorPull.operation(), mirrorExport.operation(), mirrorImport.operation(), mirrorAcceptClock.operation(), mirrorStatus.operation(), mirrorReconcile.operation(),
		mirrorReceipt.operation(), mirrorReceiptRead.operation(), mirrorHeads.operation(), mirrorCompare.operation(), mirrorObserved.operation(),
		mirrorTrustShow.operation(), mirrorTrustHistory.operation(), mirrorTrustExport.operation(),
		mirrorProgress.operation(), mirrorPlan.operation(), mirrorPicklist.operation(), approveList.operation(), approveDrop.operation(),
		artifactsList.operation(), artifactsGet.operation(), artifactsPush.operation(), artifactsCheck.operation(), mirrorFsck.operation(),
		mirrorHits.operation(), mirrorWatchScan.operation(), mirrorWatchAck.operation(), mirrorClaimsOf.operation(), mirrorCoverage.operation(),
		mirrorUnfreeze.operation(), mirrorRelease.operation(), mirrorQuarantine.operation(), mirrorQuarantineOf.operation(), mirrorEvidence.operation(), mirrorEvidenceShow.operation(),
		mirrorMedia.operation(), mirrorLook.operation(), mirrorExporters.operation(), mirrorAnnounce.operation(), mirrorAcceptExporter.operation(), mirrorContinue.operation(),
		createBackup.operation(), configReload.operation(), tlsShow.operation(), tlsRenew.operation(), readStatus.operation(),
	}
}
