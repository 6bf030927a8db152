"""Feature gates: which ones kube-proxy 1.36 knows, and what they are set to.

Every Kubernetes component registers the gates of all, so a cluster's one list may stand in each component's file.
`GATES` are those that speak of a node's proxy; `ELSEWHERE` are taken and change nothing here. Source: upstream's
feature_list.md (the names, who is locked) and reference for the proxy's own.
"""

from collections.abc import Mapping

from kubeproxy.model.objects import Record


class Gate(Record, frozen=True):
    """A gate's default, and whether that is the only value it may have."""

    default: bool
    locked: bool = False


GATES = {
    "AllAlpha": Gate(False),
    "AllBeta": Gate(False),
    "AllowServiceExternalIPs": Gate(True),
    "ComponentFlagz": Gate(True),
    "ComponentStatusz": Gate(True),
    "ContextualLogging": Gate(True),
    "LoggingAlphaOptions": Gate(False),
    "LoggingBetaOptions": Gate(True),
    "MultiCIDRServiceAllocator": Gate(True, locked=True),
    "NFTablesProxyMode": Gate(True, locked=True),
    "PreferSameTrafficDistribution": Gate(True, locked=True),
    "WinDSR": Gate(True, locked=True),
    "WinOverlay": Gate(True, locked=True),
}

_ELSEWHERE = """
APIResponseCompression APIServerIdentity APIServerTracing APIServingWithRoutine
AggregatedDiscoveryRemoveBetaType AllowDNSOnlyNodeCSR AllowInsecureKubeletCertificateSigningRequests
AllowOverwriteTerminationGracePeriodSeconds AllowParsingUserUIDFromCertAuth AllowUnsafeMalformedObjectDeletion
AnonymousAuthConfigurableEndpoints AnyVolumeDataSource AtomicFIFO AuthorizeNodeWithSelectors
AuthorizePodWebsocketUpgradeCreatePermission AuthorizeWithSelectors BtreeWatchCache CBORServingAndStorage
CPUManagerPolicyAlphaOptions CPUManagerPolicyBetaOptions CPUManagerPolicyOptions CRDObservedGenerationTracking
CRDValidationRatcheting CSIServiceAccountTokenSecrets CSIVolumeHealth ChangeContainerStatusOnKubeletRestart
ClearingNominatedNodeNameAfterBinding ClientsAllowCBOR ClientsPreferCBOR
CloudControllerManagerWatchBasedRoutesReconciliation CloudControllerManagerWebhook ClusterTrustBundle
ClusterTrustBundleProjection ConcurrentWatchObjectDecode ConsistentListFromCache ConstrainedImpersonation
ContainerCheckpoint ContainerRestartRules ContainerStopSignals CoordinatedLeaderElection
CrossNamespaceVolumeDataSource CustomCPUCFSQuotaPeriod CustomResourceFieldSelectors DRAAdminAccess
DRAConsumableCapacity DRADeviceBindingConditions DRADeviceTaintRules DRADeviceTaints DRAExtendedResource
DRAPartitionableDevices DRAPrioritizedList DRAResourceClaimDeviceStatus DRASchedulerFilterTimeout
DeclarativeValidation DeclarativeValidationTakeover DeploymentReplicaSetTerminatingReplicas
DetectCacheInconsistency DisableAllocatorDualWrite DisableCPUQuotaWithExclusiveCPUs
DisableNodeKubeProxyVersion DynamicResourceAllocation EnvFiles EventedPLEG ExecProbeTimeout
ExternalServiceAccountTokenSigner GangScheduling GenericWorkload GitRepoVolumeDriver GracefulNodeShutdown
GracefulNodeShutdownBasedOnPodPriority HPAConfigurableTolerance HPAScaleToZero HonorPVReclaimPolicy
HostnameOverride ImageMaximumGCAge ImageVolume ImageVolumeWithDigest InOrderInformers
InOrderInformersBatchProcess InPlacePodLevelResourcesVerticalScaling InPlacePodVerticalScaling
InPlacePodVerticalScalingAllocatedStatus InPlacePodVerticalScalingExclusiveCPUs
InPlacePodVerticalScalingExclusiveMemory InformerResourceVersion JobBackoffLimitPerIndex JobManagedBy
JobPodReplacementPolicy JobSuccessPolicy KMSv1 KubeletCgroupDriverFromCRI KubeletCrashLoopBackOffMax
KubeletEnsureSecretPulledImages KubeletFineGrainedAuthz KubeletInUserNamespace KubeletPSI
KubeletPodResourcesDynamicResources KubeletPodResourcesGet KubeletPodResourcesListUseActivePods
KubeletRegistrationGetOnExistsOnly KubeletSeparateDiskGC KubeletServiceAccountTokenForCredentialProviders
KubeletTracing ListFromCacheSnapshot LocalStorageCapacityIsolationFSQuotaMonitoring LogarithmicScaleDown
MatchLabelKeysInPodAffinity MatchLabelKeysInPodTopologySpread MatchLabelKeysInPodTopologySpreadSelectorMerge
MaxUnavailableStatefulSet MemoryQoS MutableCSINodeAllocatableCount MutablePVNodeAffinity
MutablePodResourcesForSuspendedJobs MutableSchedulingDirectivesForSuspendedJobs MutatingAdmissionPolicy
NodeDeclaredFeatures NodeInclusionPolicyInPodTopologySpread NodeLogQuery NodeSwap
NominatedNodeNameForExpectation OpenAPIEnums OpportunisticBatching OrderedNamespaceDeletion
PodAndContainerStatsFromCRI PodCertificateRequest PodDeletionCost PodLevelResources PodLifecycleSleepAction
PodLifecycleSleepActionAllowZero PodLogsQuerySplitStreams PodObservedGenerationTracking
PodReadyToStartContainersCondition PodSchedulingReadiness PodTopologyLabelsAdmission PortForwardWebsockets
PreventStaticPodAPIReferences ProcMountType QOSReserved RecoverVolumeExpansionFailure RecursiveReadOnlyMounts
ReduceDefaultCrashLoopBackOffDecay RelaxedDNSSearchValidation RelaxedEnvironmentVariableValidation
RelaxedServiceNameValidation ReloadKubeletServerCertificateFile RemoteRequestHeaderUID
ResilientWatchCacheInitialization ResourceHealthStatus ResourceHealthStatusMessage
RestartAllContainersOnContainerExits RetryGenerateName RotateKubeletServerCertificate
RuntimeClassInImageCriApi SELinuxChangePolicy SELinuxMount SELinuxMountReadWriteOncePod SchedulerAsyncAPICalls
SchedulerAsyncPreemption SchedulerPopFromBackoffQ SchedulerQueueingHints SeparateCacheWatchRPC
SeparateTaintEvictionController ServiceAccountNodeAudienceRestriction ServiceAccountTokenJTI
ServiceAccountTokenNodeBinding ServiceAccountTokenNodeBindingValidation ServiceAccountTokenPodNodeInfo
SidecarContainers SizeBasedListCostEstimate StatefulSetSemanticRevisionComparison StorageCapacityScoring
StorageNamespaceIndex StorageVersionAPI StorageVersionHash StorageVersionMigrator
StreamingCollectionEncodingToJSON StreamingCollectionEncodingToProtobuf StrictIPCIDRValidation
StructuredAuthenticationConfiguration StructuredAuthenticationConfigurationEgressSelector
StructuredAuthenticationConfigurationJWKSMetrics SupplementalGroupsPolicy SystemdWatchdog
TaintTolerationComparisonOperators TokenRequestServiceAccountUIDValidation TopologyManagerPolicyAlphaOptions
TopologyManagerPolicyBetaOptions TopologyManagerPolicyOptions TranslateStreamCloseWebsocketRequests
UnauthenticatedHTTP2DOSMitigation UnknownVersionInteroperabilityProxy UnlockWhileProcessingFIFO
UserNamespacesHostNetworkSupport UserNamespacesSupport VolumeAttributesClass VolumeLimitScaling
WatchCacheInitializationPostStartHook WatchList WatchListClient WindowsCPUAndMemoryAffinity
WindowsGracefulNodeShutdown WindowsHostNetwork
"""
ELSEWHERE = frozenset(_ELSEWHERE.split())

ALLOW_EXTERNAL_IPS = "AllowServiceExternalIPs"
LOGGING_ALPHA = "LoggingAlphaOptions"


def complaint(given: Mapping[str, bool]) -> str:
    """Return what is wrong with the gates that somebody set, in upstream's words; "" when nothing is."""
    for name, value in sorted(given.items()):
        gate = GATES.get(name)
        if gate is None and name not in ELSEWHERE:
            return f"unrecognized feature gate: {name}"
        if gate is not None and gate.locked and value != gate.default:
            locked = str(gate.default).lower()
            return f"cannot set feature gate {name} to {str(value).lower()}, feature is locked to {locked}"
    return ""


def enabled(given: Mapping[str, bool], name: str) -> bool:
    """Return whether a gate of `GATES` is on."""
    if name in given:
        return given[name]
    # Of the proxy's gates, this is the only one that AllAlpha reaches; AllBeta reaches none that is off.
    return GATES[name].default or (name == LOGGING_ALPHA and given.get("AllAlpha", False))
