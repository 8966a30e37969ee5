module sandbox/longhorn-engine

go 1.26.0

require github.com/longhorn/longhorn-engine v1.12.0
