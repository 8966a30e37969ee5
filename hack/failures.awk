# Reads the output of `go test -v` and prints, at its end, what each failed test
# has said, without the tests beside it that ran at the same time.
# Usage: awk -f hack/failures.awk FILE
/^ *=== (RUN|NAME|CONT|PAUSE) / { now = $3; next }
/^ *--- (PASS|SKIP): / { next }
/^ *--- FAIL: / { if (!($3 in failed)) { failed[$3] = 1; order[++count] = $3 } next }
/^(FAIL|PASS|ok|exit status)/ { next }
/^panic:/ { rest = 40 }
rest > 0 { panics = panics $0 "\n"; rest--; next }
{ if (lines[now]++ < 80) said[now] = said[now] substr($0, 1, 1200) "\n" }
END {
  if (panics != "") printf "\n==> panic\n%s", panics
  for (i = 1; i <= count; i++)
    if (said[order[i]] != "") printf "\n==> FAILED: %s\n%s", order[i], said[order[i]]
}
