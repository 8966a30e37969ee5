// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
)

// outputFollower logs what the go tool says, counts its downloads and keeps its last lines.
type outputFollower struct {
	log io.Writer

	mu         sync.Mutex
	partial    []byte
	last       []string
	downloaded int
}

func (o *outputFollower) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.partial = append(o.partial, p...)
	for {
		line, rest, found := bytes.Cut(o.partial, []byte("\n"))
		if !found {
			return o.log.Write(p)
		}
		o.partial = rest
		if bytes.HasPrefix(line, []byte("go: downloading ")) {
			o.downloaded++
			continue
		}
		o.last = append(o.last, string(line))
		if len(o.last) > 20 {
			o.last = o.last[1:]
		}
	}
}

func (o *outputFollower) downloads() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.downloaded
}

// tail is the end of the output without the download lines.
func (o *outputFollower) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(append(o.last, string(o.partial)), "\n")
}

// refusal matches what the go tool says when a module cannot be had: the
// module and its version are the first token that contains an @.
var refusal = regexp.MustCompile(`(\S+@v\S+?)[:,]?\s(?:.*: )?(?:reading|Get|invalid version|verifying|unrecognized)`)

// explain turns a failed build into an error that says whose fault it is.
func explain(f Family, p Program, output, logPath string, err error) error {
	if m := refusal.FindStringSubmatch(output); m != nil {
		return fmt.Errorf("family %s: module proxy refused %s\n%s\nlog: %s", f.Name, m[1], strings.TrimSpace(output), logPath)
	}
	return fmt.Errorf("family %s: build %s: %w\n%s\nlog: %s", f.Name, p.Name, err, strings.TrimSpace(output), logPath)
}
