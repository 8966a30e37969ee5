module sandbox/csi-s3

go 1.26

require (
	github.com/kubernetes-csi/external-provisioner/v5 v5.3.0
	github.com/versity/versitygw v1.8.0
	github.com/grpc-ecosystem/grpc-health-probe v0.4.37
)
