// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// CredentialKeys are the keys of Longhorn's Secret that a target of the type knows.
func CredentialKeys(kind string) []string {
	proxies := []string{keyHTTPProxy, keyHTTPSProxy, keyNoProxy}
	switch kind {
	case TypeS3:
		return append([]string{keyAccessKey, keySecretKey, keyEndpoints, keyCert, keyVirtualHost, "AWS_IAM_ROLE_ARN"}, proxies...)
	case TypeCIFS:
		return []string{"CIFS_USERNAME", "CIFS_PASSWORD"}
	case TypeAzure:
		return append([]string{"AZBLOB_ACCOUNT_NAME", "AZBLOB_ACCOUNT_KEY", "AZBLOB_ENDPOINT", "AZBLOB_CERT"}, proxies...)
	}
	return nil
}

// allCredentialKeys are those of any type, in order.
func allCredentialKeys() []string {
	keys := slices.Concat(CredentialKeys(TypeS3), CredentialKeys(TypeCIFS), CredentialKeys(TypeAzure))
	slices.Sort(keys)
	return slices.Compact(keys)
}

// ParseCredentials reads the keys of Longhorn's Secret from a JSON object of strings,
// or from lines KEY=VALUE with blank lines, comments (#) and values in quotes. Keys
// that Longhorn does not know are refused, since a misspelt one would be missed only
// by the server. The error is InvalidRequest and never quotes a value.
func ParseCredentials(content []byte) (map[string][]byte, error) {
	keys := map[string][]byte{}
	add := func(key, value string) error {
		if !slices.Contains(allCredentialKeys(), key) {
			// What is before a '=' may be a part of a secret.
			return invalidCredentials("there is a key that Longhorn does not know; it knows " + strings.Join(allCredentialKeys(), ", "))
		}
		if _, twice := keys[key]; twice {
			return invalidCredentials(key + " is given twice")
		}
		keys[key] = []byte(strings.TrimSpace(value)) // Longhorn refuses blanks around values
		return nil
	}
	if trimmed := bytes.TrimSpace(content); len(trimmed) > 0 && trimmed[0] == '{' {
		var object map[string]string
		if err := json.Unmarshal(trimmed, &object); err != nil {
			return nil, invalidCredentials("it is no JSON object of strings")
		}
		for key, value := range object {
			if err := add(key, value); err != nil {
				return nil, err
			}
		}
		return keys, nil
	}
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, found := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !found {
			return nil, invalidCredentials("a line is not KEY=VALUE")
		}
		value = strings.TrimSpace(value)
		if n := len(value); n > 1 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		// A certificate has several lines; in a file of lines they are written as \n.
		if strings.TrimSpace(key) == keyCert || strings.TrimSpace(key) == "AZBLOB_CERT" {
			value = strings.ReplaceAll(value, `\n`, "\n")
		}
		if err := add(strings.TrimSpace(key), value); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

func invalidCredentials(why string) error {
	return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "the credentials cannot be used: %s", why).AsPreflight()
}
