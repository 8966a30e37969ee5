// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/internal/engine/router"
	"github.com/vmbackup/kubectl-vmbackup/internal/imagefile"
	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// imageCreateOptions are the flags of image create.
type imageCreateOptions struct {
	*globals
	output
	run    runFlags
	dryRun dryRun

	name    string
	request vmbackup.ImageRequest
	// file is the path of the file that is uploaded.
	file string
}

func (g *globals) newImageCreate() *cobra.Command {
	o := &imageCreateOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "create NAME (--url URL | --from-file FILE | --from-claim CLAIM | --from-image IMAGE)",
		Short: "Import an image and make a StorageClass of it",
		Long: `Import an image, raw or qcow2, from a web server, a local file, a volume or another
image, and make the StorageClass whose volumes are made of it. The command ends when one
replica of the image is ready: then it is imported, and Longhorn goes on to make
the other replicas.

Where Harvester's controllers work they are asked for the image, as by its own
pages. Elsewhere the plugin makes Longhorn's backing image vmi-UUID and the
StorageClass longhorn-NAME itself, with what the default StorageClass says of
replicas, disks and nodes.

The same command may be run again at any time: it goes on where the image is,
and makes anew one whose import has failed. An image of the same name with
another source or checksum is refused (AlreadyExists).

A local file is read once for its checksum and once for the upload, which goes
through the API server to Longhorn; no way into the cluster's network is needed.
An upload that was cut off begins anew. Longhorn compares what has arrived with
the checksum. Compressed files and other formats of disks are refused, with the
command that converts them.`,
		Example: `
# Import an image, and see that it is what its publisher has signed
kubectl vmbackup image create ubuntu --checksum SHA512 \
  --url https://example.com/ubuntu-24.04.img

# Upload a local file
kubectl vmbackup image create ubuntu --from-file ubuntu-24.04.qcow2

# Make an image of a machine's disk, which is best off meanwhile
kubectl vmbackup image create golden --from-claim shop/web-root

# See what would be made
kubectl vmbackup image create ubuntu --url https://example.com/u.img --dry-run

# Only begin with it; 'image list' shows how far it is
kubectl vmbackup image create ubuntu --url https://example.com/u --wait=false`,
		Args: named("the name of the image", cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			if err := o.validate(); err != nil {
				return usageError(cmd, err)
			}
			if err := o.open(); err != nil {
				return err
			}
			return o.execute(cmd.Context())
		},
	}
	flags, r := cmd.Flags(), &o.request
	flags.StringVar(&r.Source.URL, "url", "", "Where Longhorn downloads the image from, http:// or https://. Its nodes must reach it")
	flags.StringVar(&o.file, "from-file", "", "Local file that is uploaded, raw or qcow2")
	flags.StringVar(&r.Source.Claim, "from-claim", "", "[NAMESPACE/]NAME of the PersistentVolumeClaim whose volume the image is made of, as it is now")
	flags.StringVar(&r.Source.Image, "from-image", "", "Image that is copied")
	flags.StringVar(&r.Checksum, "checksum", "", "SHA-512 in hex that the downloaded or uploaded file must have")
	flags.StringVar(&r.DisplayName, "display-name", "", "Title of the image. If empty, its name")
	flags.IntVar(&r.Replicas, "replicas", 0, "Copies of the image, and replicas of its volumes. Zero means as many as the default StorageClass has")
	flags.StringVar(&r.StorageClass, "storage-class", "", "Name of the StorageClass to make. If empty, longhorn-NAME. Harvester chooses its own")
	o.dryRun.addFlag(cmd, "check everything, show what would be made")
	o.run.addFlags(flags)
	flags.Lookup("wait").Usage = "Wait until the image is imported. If false, return as soon as the rest goes on by itself"
	o.addFlags(cmd, true)
	return cmd
}

// open looks at the file that is to be uploaded.
func (o *imageCreateOptions) open() error {
	if o.file == "" {
		return nil
	}
	file, err := imagefile.Inspect(o.file)
	if err != nil {
		return vmbackup.AsError(err, vmbackup.ReasonInvalidRequest).AsPreflight()
	}
	o.request.Content = file
	return nil
}

func (o *imageCreateOptions) validate() error {
	given := 0
	for _, source := range []string{o.file, o.request.Source.URL, o.request.Source.Claim, o.request.Source.Image} {
		if source != "" {
			given++
		}
	}
	if given != 1 {
		return invalid("one of --url, --from-file, --from-claim and --from-image says where the image comes from")
	}
	if _, err := o.requestIn("default"); err != nil {
		return err
	}
	for _, check := range []func() error{o.dryRun.validate, o.run.validate, o.check} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// requestIn is the request, of an image in that namespace unless it names its own.
func (o *imageCreateOptions) requestIn(namespace string) (vmbackup.ImageRequest, error) {
	r := o.request
	ref, err := parseImage(o.name, namespace)
	if err != nil {
		return r, err
	}
	r.Namespace, r.Name, r.Source.Type = ref.Namespace, ref.Name, vmbackup.ImageDownload
	switch {
	case r.Source.Claim != "":
		claim, err := vmbackup.ParseRef(r.Source.Claim, ref.Namespace)
		if err != nil {
			return r, err
		}
		r.Source.Type, r.Source.Claim = vmbackup.ImageExport, claim.String()
	case r.Source.Image != "":
		r.Source.Type = vmbackup.ImageClone
	case o.file != "":
		r.Source.Type, r.Source.File = vmbackup.ImageUpload, filepath.Base(o.file)
	}
	r = r.Default()
	return r, r.Validate()
}

func (o *imageCreateOptions) execute(ctx context.Context) error {
	s, err := o.connect("")
	if err != nil {
		return err
	}
	request, err := o.requestIn(s.namespace)
	if err != nil {
		return err
	}
	ctx, cancel := o.run.context(ctx)
	defer cancel()
	if request.Content != nil {
		if request.Checksum, err = o.sum(ctx, request); err != nil {
			return unbegun(ctx, err, o.run.timeout)
		}
	}
	plan, err := s.images.PlanCreate(ctx, request)
	if err != nil {
		return unbegun(ctx, err, o.run.timeout)
	}
	title := "Image " + request.Ref().String()
	if o.dryRun.on() {
		return o.showImagePlan(plan, title, &o.output)
	}
	again := goOn{command: o.again(request), stands: longhornGoesOn}
	if request.Content != nil {
		again.stands = "an upload that was cut off begins anew"
	}
	return o.runImage(ctx, &o.run, &o.output, request.Ref(), again, func(opts vmbackup.RunOptions) (*vmbackup.Image, error) {
		return s.images.Run(ctx, plan, opts)
	})
}

// sum reads the file for its checksum, and refuses one that is not the file that the
// user means.
func (o *imageCreateOptions) sum(ctx context.Context, r vmbackup.ImageRequest) (string, error) {
	file := r.Content.(*imagefile.File)
	if _, err := fmt.Fprintf(o.streams.ErrOut, "reading %s (%s, %s) for its checksum\n", o.file, file.Format, render.Bytes(file.SizeBytes())); err != nil {
		return "", err
	}
	sum, err := file.Checksum(ctx)
	if err == nil && r.Checksum != "" && r.Checksum != sum {
		err = vmbackup.Errorf(vmbackup.ReasonSourceMismatch, "file %s has the SHA-512 %s, which is not the one of --checksum; nothing was uploaded", o.file, sum).AsPreflight().
			WithHint("download the file again, or look whether the checksum is of another file, or of the compressed one")
	}
	return sum, err
}

// again is the command that goes on; empty where it would show a password.
func (o *imageCreateOptions) again(r vmbackup.ImageRequest) string {
	if u, err := url.Parse(r.Source.URL); err != nil || u.User != nil {
		return ""
	}
	words := []string{r.Name}
	for _, f := range []struct{ flag, value string }{
		{"--url", r.Source.URL},
		{"--from-file", o.file},
		{"--from-claim", r.Source.Claim},
		{"--from-image", r.Source.Image},
		{"--checksum", r.Checksum},
		{"--storage-class", r.StorageClass},
		{"--display-name", o.request.DisplayName},
	} {
		if f.value != "" {
			words = append(words, f.flag, f.value)
		}
	}
	if r.Replicas > 0 {
		words = append(words, "--replicas", strconv.Itoa(r.Replicas))
	}
	return o.imageCommand("create", r.Namespace, words...)
}

// imageCommand is a command line of image in the same cluster.
func (g *globals) imageCommand(verb, namespace string, words ...string) string {
	line := append([]string{"kubectl", "vmbackup", "image", verb}, words...)
	line = append(line, "-n", namespace)
	if v := g.config.Context; v != nil && *v != "" {
		line = append(line, "--context", *v)
	}
	if v := g.config.KubeConfig; v != nil && *v != "" {
		line = append(line, "--kubeconfig", *v)
	}
	if g.engine != router.Auto {
		line = append(line, "--engine", g.engine)
	}
	for i, w := range line {
		line[i] = shellWord(w)
	}
	return strings.Join(line, " ")
}

// runImage runs an operation on an image, shows its progress and then the image.
func (g *globals) runImage(ctx context.Context, flags *runFlags, out *output, ref vmbackup.Ref, again goOn, run func(vmbackup.RunOptions) (*vmbackup.Image, error)) error {
	progress, err := g.newProgress()
	if err != nil {
		return err
	}
	image, runErr := run(vmbackup.RunOptions{Sink: progress, NoWait: !flags.wait})
	if err := progress.Close(); err != nil {
		return err
	}
	if image != nil && (runErr == nil || !out.human()) {
		if err := g.showImage(image, out); err != nil {
			return err
		}
	}
	return g.imageStopped(ctx, runErr, ref, again, flags.timeout)
}

func (g *globals) showImage(image *vmbackup.Image, out *output) error {
	if !out.human() {
		return out.print(g.streams.Out, image)
	}
	options := g.outTerminal().Options(g.clock())
	options.Wide = out.wide()
	return render.Images(g.streams.Out, []vmbackup.Image{*image}, options)
}

// goOn is how an operation that was interrupted goes on.
type goOn struct {
	// command is empty where it would show a password.
	command string
	// stands says what becomes of it meanwhile.
	stands string
}

const longhornGoesOn = "nothing is lost, and what Longhorn does goes on"

// imageStopped explains an error by which an operation on an image ended: when only
// the waiting ended, what is safe, and what goes on.
func (g *globals) imageStopped(ctx context.Context, err error, ref vmbackup.Ref, again goOn, after time.Duration) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	hint := "go on with the same command"
	if again.command != "" {
		hint = "go on with: " + again.command
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return vmbackup.Errorf(vmbackup.ReasonTimeout, "image %s was not done in %s; %s", ref, after, again.stands).WithHint("%s", hint)
	}
	return vmbackup.Errorf(vmbackup.ReasonCanceled, "interrupted; image %s is not done, %s", ref, again.stands).WithHint("%s", hint)
}

func (g *globals) showImagePlan(plan *vmbackup.ImagePlan, title string, out *output) error {
	if !out.human() {
		image := *plan.Image
		image.Status.Objects = plan.Objects
		return out.print(g.streams.Out, &image)
	}
	if _, err := fmt.Fprintf(g.streams.Out, "%s (dry run: nothing was changed)\n\n", title); err != nil {
		return err
	}
	return render.Plan(g.streams.Out, plan.Objects, plan.Steps, plan.Warnings, g.outTerminal().Options(g.clock()))
}
