module sandbox/longhorn-instance-manager

go 1.26

require github.com/longhorn/longhorn-instance-manager v1.11.0-dev-20251130.0.20251209091223-c9c9640f1991

replace (
	github.com/longhorn/backupstore => github.com/longhorn/backupstore v0.0.0-20251213143132-51fdc08d1cd9
	github.com/longhorn/go-common-libs => github.com/longhorn/go-common-libs v0.0.0-20251213114131-1a1ec1f0270e
	github.com/longhorn/go-iscsi-helper => github.com/longhorn/go-iscsi-helper v0.0.0-20251213143157-4a906cc17806
	github.com/longhorn/go-spdk-helper => github.com/longhorn/go-spdk-helper v0.2.1-0.20251213143112-c40a36fce272
	github.com/longhorn/longhorn-spdk-engine => github.com/longhorn/longhorn-spdk-engine v0.0.0-20251211073105-08609c16d3d1
	github.com/longhorn/sparse-tools => github.com/longhorn/sparse-tools v0.0.0-20250826041019-4aae87cb253a
	github.com/longhorn/types => github.com/longhorn/types v0.0.0-20251207085945-9c40bd62daff
)
