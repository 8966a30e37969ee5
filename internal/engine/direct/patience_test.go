// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// refused is the error of an API server that does not listen.
func refused() error {
	return &url.Error{Op: "Get", URL: "https://127.0.0.1:6443/api", Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}
}

// patientTest runs f with a patience whose events are recorded.
func patientTest(t *testing.T, f func(t *testing.T, p *patience, told *recorder)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		told := &recorder{}
		f(t, newPatience(flow.NewEvents(told, "backup/demo/b1", time.Now), "go on with: kubectl vmbackup resume b1 -n demo"), told)
	})
}

// messages are the messages of the events.
func (r *recorder) messages() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []string
	for _, e := range r.events {
		list = append(list, e.Message)
	}
	return list
}

func TestPatienceBearsAnOutage(t *testing.T) {
	for name, away := range map[string]error{
		"refused":  refused(),
		"starting": kube.Error(apierrors.NewServiceUnavailable("starting"), "read", "Secret demo/web"),
		"etcd":     apierrors.NewInternalError(errors.New("etcdserver: request timed out")),
	} {
		t.Run(name, func(t *testing.T) {
			patientTest(t, func(t *testing.T, p *patience, told *recorder) {
				back := time.Now().Add(90 * time.Second)
				tries := 0
				steps := p.steps([]flow.Step{{ID: "upload", Ensure: func(context.Context) error {
					tries++
					if time.Now().Before(back) {
						return away
					}
					return nil
				}}})
				if err := flow.Run(t.Context(), steps, false, p.events, nil); err != nil {
					t.Fatal(err)
				}
				if late := time.Since(back); late > 6*time.Second || tries < 10 || tries > 60 {
					t.Errorf("%d tries, done %s after the outage", tries, late)
				}
				messages := told.messages()
				if len(messages) != 4 || !strings.Contains(messages[1], "the API server does not answer; waiting") || messages[2] != "the API server answers again" {
					t.Errorf("told %q", messages)
				}
			})
		})
	}
}

func TestPatienceEnds(t *testing.T) {
	patientTest(t, func(t *testing.T, p *patience, _ *recorder) {
		began := time.Now()
		// A save within a step: one outage, told and counted once.
		err := p.bear(t.Context(), func(ctx context.Context) error {
			return p.bear(ctx, func(context.Context) error { return refused() })
		})
		e := failure(t, err, vmbackup.ReasonEngineUnavailable)
		if took := time.Since(began); took < outageLimit || took > outageLimit+10*time.Second {
			t.Errorf("given up after %s", took)
		}
		if !strings.Contains(e.Hint, "kubectl vmbackup resume b1 -n demo") || strings.Count(e.Message, "has not answered for 2m") != 1 || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s; %s", e.Message, e.Hint)
		}
	})
}

// Where a webhook is away everything else is answered: that is no end of the outage.
func TestPatienceWithAWebhookThatIsAway(t *testing.T) {
	patientTest(t, func(t *testing.T, p *patience, told *recorder) {
		away := apierrors.NewInternalError(errors.New(`failed calling webhook "x": dial tcp 10.0.0.1:443: connect: connection refused`))
		err := p.bear(t.Context(), func(ctx context.Context) error {
			p.hear(nil) // a wait of the step was answered
			if err := p.bear(ctx, func(context.Context) error { return nil }); err != nil {
				return err
			}
			return away
		})
		wantReason(t, err, vmbackup.ReasonEngineUnavailable)
		if !errors.Is(err, away) || len(told.events) != 1 {
			t.Errorf("%v, told %q", err, told.messages())
		}
	})
}

func TestPatienceIsNotForRefusals(t *testing.T) {
	gr := schema.GroupResource{Resource: "secrets"}
	for name, err := range map[string]error{
		"forbidden": apierrors.NewForbidden(gr, "web", errors.New("no")),
		"missing":   apierrors.NewNotFound(gr, "web"),
		"other run": vmbackup.Errorf(vmbackup.ReasonConflict, "another run goes on"),
		"damaged":   vmbackup.Errorf(vmbackup.ReasonDataDamaged, "%w", refused()),
	} {
		t.Run(name, func(t *testing.T) {
			patientTest(t, func(t *testing.T, p *patience, told *recorder) {
				tries := 0
				got := p.bear(t.Context(), func(context.Context) error {
					tries++
					return err
				})
				if !errors.Is(got, err) || tries != 1 || len(told.events) != 0 {
					t.Errorf("%d tries, %v, told %q", tries, got, told.messages())
				}
			})
		})
	}
}

// An API server that has just started refuses what it allows a moment later.
func TestPatienceWithAnAPIServerThatHasNotReadItsRoles(t *testing.T) {
	patientTest(t, func(t *testing.T, p *patience, _ *recorder) {
		forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "web", errors.New("no"))
		answers := []error{refused(), forbidden, forbidden, nil}
		err := p.bear(t.Context(), func(context.Context) error {
			answer := answers[0]
			answers = answers[1:]
			return answer
		})
		if err != nil || len(answers) != 0 {
			t.Errorf("%d left: %v", len(answers), err)
		}
		// Without end it is a refusal.
		down := true
		err = p.bear(t.Context(), func(context.Context) error {
			if down {
				down = false
				return refused()
			}
			return forbidden
		})
		if !errors.Is(err, forbidden) {
			t.Error(err)
		}
	})
}

func TestPatienceWithConflicts(t *testing.T) {
	patientTest(t, func(t *testing.T, p *patience, told *recorder) {
		conflict := kube.Error(apierrors.NewConflict(schema.GroupResource{Resource: "virtualmachines"}, "web", errors.New("modified")), "start", "VirtualMachine demo/web")
		tries := 0
		if err := p.bear(t.Context(), func(context.Context) error {
			if tries++; tries <= conflictLimit {
				return conflict
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		if err := p.bear(t.Context(), func(context.Context) error { return conflict }); !errors.Is(err, conflict) {
			t.Error(err)
		}
		if len(told.events) != 0 {
			t.Errorf("told %q", told.messages())
		}
	})
}

func TestPatienceEndsWithTheRun(t *testing.T) {
	patientTest(t, func(t *testing.T, p *patience, _ *recorder) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		if err := p.bear(ctx, func(context.Context) error { return refused() }); err == nil || time.Since(began) != 10*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// touch changes the record as somebody does who annotates it: its version alone.
func (c *cluster) touch(kind journal.Kind, ref vmbackup.Ref) {
	c.t.Helper()
	entry, err := c.journal.Store.Get(c.t.Context(), kind, ref)
	if err == nil {
		entry.Labels["example.com/touched"] = "yes"
		_, err = c.journal.Store.Update(c.t.Context(), entry)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// A tool that labels every Secret that it meets is no other run.
func TestRecordThatIsTouched(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		touches := 0
		c.fail("update", "journal", func(string) error {
			if touches < 6 {
				touches++
				c.touch(journal.KindBackup, b1)
			}
			return nil
		})
		b, err := c.run(t.Context())
		if err != nil || !b.Status.Ready || touches != 6 {
			t.Fatalf("%d touches: %v", touches, err)
		}
		c.oneBackup()
	})
}

// A save that was written and not answered is no other run either.
func TestRecordWhoseAnswerIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		plan, err := c.engine.PlanBackup(t.Context(), request())
		if err != nil {
			t.Fatal(err)
		}
		c.journal.loses = true
		if _, err := c.engine.StartBackup(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		b, err := c.run(t.Context())
		if err != nil || !b.Status.Ready {
			t.Fatal(err)
		}
		c.oneBackup()
	})
}
