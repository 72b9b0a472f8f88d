package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"pullpass.dev/tests/cluster/internal/address"
	"pullpass.dev/tests/cluster/internal/artifact"
	"pullpass.dev/tests/cluster/internal/cache"
	"pullpass.dev/tests/cluster/internal/cluster"
	"pullpass.dev/tests/cluster/internal/layout"
	"pullpass.dev/tests/cluster/internal/machine"
	"pullpass.dev/tests/cluster/internal/registry"
)

// settings are the flags that all commands share.
type settings struct {
	// module is the directory of this Go module in the checkout.
	module string
	name   string
}

func (s settings) checkout() string { return filepath.Dir(filepath.Dir(s.module)) }

func (s settings) source() (artifact.Source, error) {
	opened, err := cache.Open(say)
	return artifact.Source{Module: s.module, Cache: opened, Say: say}, err
}

func (s settings) cluster() (cluster.Cluster, error) {
	named, err := layout.Named(s.checkout(), s.name)
	if err != nil {
		return cluster.Cluster{}, err
	}
	return s.of(named)
}

func (s settings) of(named layout.Cluster) (cluster.Cluster, error) {
	source, err := s.source()
	return cluster.Cluster{Layout: named, Source: source, Say: say}, err
}

// prepareMachine makes sure that the machine can run a cluster, and installs
// the small tools that it lacks.
func prepareMachine() error {
	if err := machine.Check(); err != nil {
		return err
	}
	missing := machine.Missing()
	if len(missing) == 0 {
		return nil
	}
	say("installing %s from Debian", strings.Join(missing, ", "))
	return machine.Install(missing)
}

func rootCommand() *cobra.Command {
	s := &settings{}
	root := &cobra.Command{
		Use:           "cluster",
		Short:         "Run local Kubernetes clusters for development and tests",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.PersistentFlags().StringVar(&s.module, "module", "", "directory of this Go module")
	// The launcher sets it.
	_ = root.PersistentFlags().MarkHidden("module")
	for _, named := range []*cobra.Command{
		upCommand(s), restartCommand(s), loadImageCommand(s), kubeconfigCommand(s), kubectlCommand(s), registryPasswordCommand(s),
	} {
		nameFlag(named, s)
		root.AddCommand(named)
	}
	root.AddCommand(downCommand(s), statusCommand(s), buildCommand(s), toolCommand(s), checkCommand(), prerequisitesCommand())
	return root
}

func nameFlag(command *cobra.Command, s *settings) {
	command.Flags().StringVar(&s.name, "name", layout.DefaultName, "which cluster")
}

func upCommand(s *settings) *cobra.Command {
	var options cluster.Options
	command := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster, or whatever of it does not run",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := prepareMachine(); err != nil {
				return err
			}
			c, err := s.cluster()
			if err != nil {
				return err
			}
			return c.Up(cmd.Context(), options)
		},
	}
	command.Flags().BoolVar(&options.APIOnly, "api-only", false, "only etcd and an API server, on the loopback address")
	command.Flags().IntVar(&options.Nodes, "nodes", 0, fmt.Sprintf("how many nodes, up to %d; more or fewer than there are come or go (default as there are, or 1)", address.MaxNodes))
	command.Flags().BoolVar(&options.Controllers, "with-controllers", false, "with --api-only: the controller manager too")
	return command
}

func downCommand(s *settings) *cobra.Command {
	var all bool
	command := &cobra.Command{
		Use:   "down",
		Short: "End a cluster and remove everything of it",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if os.Geteuid() != 0 {
				return errors.New("clusters run as root: so does this")
			}
			if !all {
				c, err := s.cluster()
				if err != nil {
					return err
				}
				return c.Down()
			}
			found, err := cluster.OfCheckout(s.checkout())
			if err != nil {
				return err
			}
			var failures []error
			for _, each := range found {
				c, err := s.of(each)
				if err == nil {
					err = c.Down()
				}
				if err != nil {
					failures = append(failures, fmt.Errorf("cluster %s: %w", each.Name, err))
				}
			}
			return errors.Join(failures...)
		},
	}
	nameFlag(command, s)
	command.Flags().BoolVar(&all, "all", false, "all clusters of this checkout")
	command.MarkFlagsMutuallyExclusive("name", "all")
	return command
}

func statusCommand(s *settings) *cobra.Command {
	var asJSON bool
	command := &cobra.Command{
		Use:   "status",
		Short: "Show a cluster, or all of this checkout",
		Long: "Show the cluster given by --name, or else all of this checkout.\n" +
			"With --json the output is one object with --name, and a list of objects without.",
		Args: cobra.NoArgs,
	}
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		var clusters []layout.Cluster
		single := command.Flags().Changed("name")
		if single {
			named, err := layout.Named(s.checkout(), s.name)
			if err != nil {
				return err
			}
			clusters = append(clusters, named)
		} else {
			found, err := cluster.OfCheckout(s.checkout())
			if err != nil {
				return err
			}
			clusters = found
		}
		statuses := []cluster.Status{}
		for _, each := range clusters {
			c, err := s.of(each)
			if err != nil {
				return err
			}
			status, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			statuses = append(statuses, status)
		}
		switch {
		case asJSON && single:
			return printJSON(os.Stdout, statuses[0])
		case asJSON:
			return printJSON(os.Stdout, statuses)
		}
		return printStatuses(os.Stdout, statuses)
	}
	nameFlag(command, s)
	command.Flags().BoolVar(&asJSON, "json", false, "for programs")
	return command
}

func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

func printStatuses(out io.Writer, statuses []cluster.Status) error {
	if len(statuses) == 0 {
		fmt.Fprintln(out, "no clusters")
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, status := range statuses {
		fmt.Fprintf(table, "%s: %s\n", status.Name, summary(status))
		for _, line := range [][2]string{
			{"kubeconfig", status.Kubeconfig}, {"audit log", status.AuditLog},
			{"API server", status.APIServer}, {"registry", status.Registry},
		} {
			if line[1] != "" {
				fmt.Fprintf(table, "  %s\t%s\n", line[0], line[1])
			}
		}
		for _, component := range status.Components {
			process := "does not run"
			if component.PID != 0 {
				process = fmt.Sprintf("process %d", component.PID)
			}
			fmt.Fprintf(table, "  %s\t%s\t%s\n", component.Name, process, component.Log)
		}
	}
	return table.Flush()
}

func summary(status cluster.Status) string {
	switch {
	case !status.Exists:
		return "there is no such cluster"
	case status.Healthy:
		return "healthy"
	}
	return "not healthy: `cluster up` repairs it"
}

func restartCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "restart COMPONENT",
		Short: "End a component, or a whole node, and start it again",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.cluster()
			if err != nil {
				return err
			}
			return c.Restart(cmd.Context(), args[0])
		},
	}
}

func loadImageCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "load-image ARCHIVE…",
		Short: "Load OCI archives into the cluster's nodes",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := s.cluster()
			if err != nil {
				return err
			}
			return c.LoadImages(args)
		},
	}
}

func kubeconfigCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the path of the administrator's kubeconfig",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := s.cluster()
			if err != nil {
				return err
			}
			path, err := c.Kubeconfig()
			if err == nil {
				fmt.Println(path)
			}
			return err
		},
	}
}

func kubectlCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl -- ARGUMENT…",
		Short: "Run kubectl as the cluster's administrator",
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := s.cluster()
			if err != nil {
				return err
			}
			if _, err := c.Kubeconfig(); err != nil {
				return err
			}
			kubectl := c.Layout.Kubectl()
			return fmt.Errorf("%s: %w", kubectl, unix.Exec(kubectl, append([]string{kubectl}, args...), os.Environ()))
		},
	}
}

func registryPasswordCommand(s *settings) *cobra.Command {
	var user registry.User
	command := &cobra.Command{
		Use:   "registry-password",
		Short: "Change the password of a user of the cluster's registry, or add a user",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := s.cluster()
			if err != nil {
				return err
			}
			return registry.ChangePassword(c.Layout.RegistryEnv(), user)
		},
	}
	command.Flags().StringVar(&user.Name, "user", "", "the user's name")
	command.Flags().StringVar(&user.Password, "password", "", "the new password")
	_ = command.MarkFlagRequired("user")
	_ = command.MarkFlagRequired("password")
	return command
}

// tools are the programs that others call, by name.
var tools = []struct {
	name string
	path func(artifact.Source) (string, error)
}{
	{"kubectl", func(s artifact.Source) (string, error) {
		kubernetes, err := s.Kubernetes()
		return kubernetes.Kubectl, err
	}},
	{"nft", func(s artifact.Source) (string, error) {
		debian, err := s.Debian()
		return debian.Nft(), err
	}},
	{"docker-registry", debianProgram("docker-registry")},
	{"tinyproxy", debianProgram("tinyproxy")},
	{"promtool", debianProgram("promtool")},
	{"helm", artifact.Source.Helm},
	{"kubeconform", artifact.Source.Kubeconform},
}

func debianProgram(name string) func(artifact.Source) (string, error) {
	return func(s artifact.Source) (string, error) {
		debian, err := s.Debian()
		return debian.Program(name), err
	}
}

func toolCommand(s *settings) *cobra.Command {
	var names []string
	for _, tool := range tools {
		names = append(names, tool.name)
	}
	return &cobra.Command{
		Use:       "tool " + strings.Join(names, "|"),
		Short:     "Print the path of a tool, which is built if it is not there",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: names,
		RunE: func(_ *cobra.Command, args []string) error {
			source, err := s.source()
			if err != nil {
				return err
			}
			index := slices.Index(names, args[0])
			path, err := tools[index].path(source)
			if err == nil {
				fmt.Println(path)
			}
			return err
		},
	}
}

func buildCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "build",
		Short: "Build and fetch everything that clusters and their users need",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := prepareMachine(); err != nil {
				return err
			}
			source, err := s.source()
			if err != nil {
				return err
			}
			if _, err := source.Kubernetes(); err != nil {
				return err
			}
			if _, err := source.Debian(); err != nil {
				return err
			}
			if _, err := source.Pause(); err != nil {
				return err
			}
			for _, tool := range tools {
				if _, err := tool.path(source); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Tell whether this machine can run a cluster, and what it lacks",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return machine.Check() },
	}
}

func prerequisitesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "prerequisites",
		Short: "List the Debian packages that are installed on the machine if they are missing",
		Args:  cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			for _, prerequisite := range machine.Prerequisites {
				fmt.Println(prerequisite.Package)
			}
		},
	}
}
