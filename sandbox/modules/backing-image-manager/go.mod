module sandbox/backing-image-manager

go 1.26

require github.com/longhorn/backing-image-manager v1.9.2

replace github.com/longhorn/longhorn-engine => github.com/longhorn/longhorn-engine v1.10.0-rc3
