"""The numbers of the server's errors that a store tells apart."""

from enum import IntEnum

__all__ = ["ErrorCode"]


class ErrorCode(IntEnum):
    """``err_code`` of a JetStream answer; the names are the server's own (``server/errors.json`` of nats-server)."""

    JSAccountResourcesExceededErr = 10002
    JSClusterNotAvailErr = 10008
    JSClusterNotLeaderErr = 10009
    JSConsumerNotFoundErr = 10014
    JSInsufficientResourcesErr = 10023
    JSMemoryResourcesExceededErr = 10028
    JSNoMessageFoundErr = 10037
    JSNotEnabledForAccountErr = 10039
    JSStorageResourcesExceededErr = 10047
    JSStreamMessageExceedsMaximumErr = 10054
    JSStreamNameExistErr = 10058
    JSStreamNotFoundErr = 10059
    JSStreamSubjectOverlapErr = 10065
    JSStreamWrongLastSequenceErrF = 10071
    JSNotEnabledErr = 10076
    JSStreamStoreFailedF = 10077
    JSNoLimitsErr = 10120
    JSStreamMaxStreamBytesExceeded = 10122
    JSStreamDuplicateMessageConflict = 10158
    JSStreamExpectedLastSeqPerSubjectNotReady = 10163
    JSStreamWrongLastSequenceConstantErr = 10164
    JSStreamTooManyRequests = 10167
    JSAtomicPublishDisabledErr = 10174
    JSAtomicPublishIncompleteBatchErr = 10176
    JSAtomicPublishUnsupportedHeaderBatchErr = 10177  # of 2.12.0: it takes no message ids in a batch
    JSAtomicPublishTooLargeBatchErrF = 10199
    JSAtomicPublishContainsDuplicateMessageErr = 10201
    JSAtomicPublishTooManyInflight = 10210
