// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"text/tabwriter"
	"time"
)

// figure is one measured number. A goal is an upper limit, in the same unit.
type figure struct {
	Name  string   `json:"name"`
	Value float64  `json:"value"`
	Unit  string   `json:"unit"`
	Goal  *float64 `json:"goal,omitempty"`
	Holds *bool    `json:"holds,omitempty"`
	// How says what was measured and how often.
	How string `json:"how"`
}

// report is the figures of one run and the machine that they hold for.
type report struct {
	Time    time.Time `json:"time"`
	Machine string    `json:"machine"`
	Figures []figure  `json:"figures"`
}

func newReport() *report {
	return &report{
		Time:    time.Now().UTC().Truncate(time.Second),
		Machine: fmt.Sprintf("%s/%s, %d cores, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version()),
	}
}

// add records a figure without a goal.
func (r *report) add(name string, value float64, unit, how string) {
	r.Figures = append(r.Figures, figure{Name: name, Value: value, Unit: unit, How: how})
}

// addGoal records a figure that should be at most goal.
func (r *report) addGoal(name string, value, goal float64, unit, how string) {
	holds := value <= goal
	r.Figures = append(r.Figures, figure{Name: name, Value: value, Unit: unit, Goal: &goal, Holds: &holds, How: how})
}

// missed names the figures whose goal does not hold.
func (r *report) missed() []string {
	var names []string
	for _, f := range r.Figures {
		if f.Holds != nil && !*f.Holds {
			names = append(names, f.Name)
		}
	}
	return names
}

func (r *report) print(out io.Writer) error {
	fmt.Fprintf(out, "\n%s, %s\n\n", r.Time.Format(time.RFC3339), r.Machine)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "FIGURE\tMEASURED\tGOAL\tHOLDS\tHOW")
	for _, f := range r.Figures {
		goal, holds := "-", "-"
		if f.Goal != nil {
			goal = fmt.Sprintf("<= %s %s", number(*f.Goal), f.Unit)
			holds = "yes"
			if !*f.Holds {
				holds = "NO"
			}
		}
		fmt.Fprintf(w, "%s\t%s %s\t%s\t%s\t%s\n", f.Name, number(f.Value), f.Unit, goal, holds, f.How)
	}
	return w.Flush()
}

// number shows a value with the digits that a reader can use.
func number(v float64) string {
	switch {
	case v == float64(int64(v)):
		return fmt.Sprintf("%d", int64(v))
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func (r *report) write(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
