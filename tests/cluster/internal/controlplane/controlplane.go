// Package controlplane configures etcd, the API server, the controller
// manager and the scheduler. They run on the machine itself.
package controlplane

import (
	_ "embed"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"pullpass.dev/tests/cluster/internal/address"
	"pullpass.dev/tests/cluster/internal/kubeconfig"
	"pullpass.dev/tests/cluster/internal/layout"
	"pullpass.dev/tests/cluster/internal/pki"
	"pullpass.dev/tests/cluster/internal/process"
)

// The components' names, which are also what they are called by.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
)

//go:embed audit-policy.yaml
var auditPolicy []byte

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// Config is what the control plane of one cluster depends on.
type Config struct {
	Cluster layout.Cluster
	Plan    address.Plan
	// Binary is every component of Kubernetes.
	Binary string
}

// ListenAddress is where the API server listens: on the link where there is
// one, so that nodes and pods reach it, and else on the loopback address.
func (c Config) ListenAddress() netip.Addr {
	if c.Plan.HasLink() {
		return c.Plan.Machine
	}
	return loopback
}

// ServerURL is the API server's URL for everybody, in pods too.
func (c Config) ServerURL() string {
	return "https://" + netip.AddrPortFrom(c.ListenAddress(), uint16(c.Plan.APIServerPort)).String()
}

// ControllerManagerURL is where it tells its health; so is SchedulerURL.
func (c Config) ControllerManagerURL() string { return loopbackURL(c.Plan.ControllerManagerPort) }

// SchedulerURL is where it tells its health.
func (c Config) SchedulerURL() string { return loopbackURL(c.Plan.SchedulerPort) }

func loopbackURL(port int) string { return fmt.Sprintf("https://%s:%d", loopback, port) }

// CA is the file of the authority that the API server's clients trust, and
// that signs those clients' certificates.
func (c Config) CA() string { return c.pair("ca").Cert }

// Administrator is the certificate of a user who may do everything.
func (c Config) Administrator() pki.Pair { return c.pair("admin") }

func (c Config) pair(name string) pki.Pair { return pki.In(c.Cluster.PKI(), name) }

func (c Config) configFile(name string) string { return filepath.Join(c.Cluster.Config(), name) }

// Authority signs the certificates of the API server's clients, once
// IssueCertificates has made it.
func (c Config) Authority() (*pki.Authority, error) { return pki.LoadAuthority(c.pair("ca")) }

// IssueCertificates writes all certificates and keys of the control plane.
func (c Config) IssueCertificates() error {
	if err := os.MkdirAll(c.Cluster.PKI(), 0o700); err != nil {
		return err
	}
	authority, err := pki.NewAuthority("kubernetes", c.pair("ca"))
	if err != nil {
		return err
	}
	etcdAuthority, err := pki.NewAuthority("etcd", c.pair("etcd-ca"))
	if err != nil {
		return err
	}
	// Kept apart, or every client of the API server could speak for others.
	aggregator, err := pki.NewAuthority("front-proxy", c.pair("front-proxy-ca"))
	if err != nil {
		return err
	}
	names := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	addresses := []netip.Addr{loopback, c.Plan.KubernetesService}
	if c.Plan.HasLink() {
		addresses = append(addresses, c.Plan.Machine)
	}
	local := []netip.Addr{loopback}
	for _, issue := range []func() error{
		func() error { return etcdAuthority.Server(c.pair("etcd"), nil, local) },
		func() error { return etcdAuthority.Client(c.pair("apiserver-etcd-client"), APIServer) },
		func() error { return authority.Server(c.pair("apiserver"), names, addresses) },
		func() error {
			return authority.Client(c.pair("apiserver-kubelet-client"), "kube-apiserver-kubelet-client", "system:masters")
		},
		func() error { return aggregator.Client(c.pair("front-proxy-client"), "front-proxy-client") },
		func() error { return pki.SigningKey(c.pair("service-accounts")) },
		func() error { return authority.Client(c.Administrator(), "admin", "system:masters") },
		func() error { return authority.Server(c.pair("controller-manager"), nil, local) },
		func() error {
			return authority.Client(c.pair("controller-manager-client"), "system:kube-controller-manager")
		},
		func() error { return authority.Server(c.pair("scheduler"), nil, local) },
		func() error { return authority.Client(c.pair("scheduler-client"), "system:kube-scheduler") },
	} {
		if err := issue(); err != nil {
			return err
		}
	}
	return nil
}

// WriteConfig writes the files that the components read besides certificates,
// and the administrator's kubeconfig.
func (c Config) WriteConfig() error {
	if err := os.MkdirAll(c.Cluster.Config(), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(c.configFile("audit-policy.yaml"), auditPolicy, 0o644); err != nil {
		return err
	}
	for _, user := range []struct{ path, user, pair string }{
		{c.configFile("controller-manager.kubeconfig"), "system:kube-controller-manager", "controller-manager-client"},
		{c.configFile("scheduler.kubeconfig"), "system:kube-scheduler", "scheduler-client"},
		{c.Cluster.Kubeconfig(), "admin", "admin"},
	} {
		err := kubeconfig.Write(user.path, kubeconfig.Config{
			Name:   "pullpass-" + c.Cluster.Name,
			Server: c.ServerURL(),
			CA:     c.CA(),
			User:   user.user,
			Pair:   c.pair(user.pair),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// EtcdCommand starts etcd.
func (c Config) EtcdCommand() process.Command {
	client, peer := loopbackURL(c.Plan.EtcdClientPort), loopbackURL(c.Plan.EtcdPeerPort)
	server, ca := c.pair("etcd"), c.pair("etcd-ca").Cert
	return c.command(Etcd,
		"--name=etcd",
		"--data-dir="+c.Cluster.Etcd(),
		// The data of a test need not survive a power failure.
		"--unsafe-no-fsync",
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=etcd="+peer,
		"--client-cert-auth", "--trusted-ca-file="+ca, "--cert-file="+server.Cert, "--key-file="+server.Key,
		"--peer-client-cert-auth", "--peer-trusted-ca-file="+ca, "--peer-cert-file="+server.Cert, "--peer-key-file="+server.Key,
		"--quota-backend-bytes="+strconv.Itoa(8<<30),
	)
}

// APIServerCommand starts the API server.
func (c Config) APIServerCommand() process.Command {
	args := []string{
		"--bind-address=" + c.ListenAddress().String(),
		"--secure-port=" + strconv.Itoa(c.Plan.APIServerPort),
		// Loopback addresses are refused here. Where there is no link, nobody
		// can use a Service, and so none is advertised.
		"--advertise-address=" + c.Plan.Machine.String(),
		"--service-cluster-ip-range=" + c.Plan.Services.String(),
		"--tls-cert-file=" + c.pair("apiserver").Cert,
		"--tls-private-key-file=" + c.pair("apiserver").Key,
		"--etcd-servers=" + loopbackURL(c.Plan.EtcdClientPort),
		"--etcd-cafile=" + c.pair("etcd-ca").Cert,
		"--etcd-certfile=" + c.pair("apiserver-etcd-client").Cert,
		"--etcd-keyfile=" + c.pair("apiserver-etcd-client").Key,
		"--client-ca-file=" + c.CA(),
		"--kubelet-certificate-authority=" + c.CA(),
		"--kubelet-client-certificate=" + c.pair("apiserver-kubelet-client").Cert,
		"--kubelet-client-key=" + c.pair("apiserver-kubelet-client").Key,
		"--kubelet-preferred-address-types=InternalIP",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + c.pair("service-accounts").Cert,
		"--service-account-signing-key-file=" + c.pair("service-accounts").Key,
		"--requestheader-client-ca-file=" + c.pair("front-proxy-ca").Cert,
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + c.pair("front-proxy-client").Cert,
		"--proxy-client-key-file=" + c.pair("front-proxy-client").Key,
		"--allow-privileged=true",
		"--audit-policy-file=" + c.configFile("audit-policy.yaml"),
		"--audit-log-path=" + c.Cluster.AuditLog(),
		"--audit-log-format=json",
		// Tests count entries: none may be rotated away while they run.
		"--audit-log-maxsize=1024",
		"--audit-log-maxbackup=2",
	}
	if !c.Plan.HasLink() {
		args = append(args, "--endpoint-reconciler-type=none")
	}
	return c.command(APIServer, args...)
}

// ControllerManagerCommand starts the controller manager.
func (c Config) ControllerManagerCommand() process.Command {
	config := c.configFile("controller-manager.kubeconfig")
	return c.command(ControllerManager,
		"--bind-address="+loopback.String(),
		"--secure-port="+strconv.Itoa(c.Plan.ControllerManagerPort),
		"--tls-cert-file="+c.pair("controller-manager").Cert,
		"--tls-private-key-file="+c.pair("controller-manager").Key,
		"--kubeconfig="+config,
		"--authentication-kubeconfig="+config,
		"--authorization-kubeconfig="+config,
		"--client-ca-file="+c.CA(),
		"--requestheader-client-ca-file="+c.pair("front-proxy-ca").Cert,
		"--root-ca-file="+c.CA(),
		"--service-account-private-key-file="+c.pair("service-accounts").Key,
		"--cluster-signing-cert-file="+c.CA(),
		"--cluster-signing-key-file="+c.pair("ca").Key,
		"--use-service-account-credentials=true",
		"--cluster-cidr="+c.Plan.Pods.String(),
		"--service-cluster-ip-range="+c.Plan.Services.String(),
		// Every node is given its range of pod addresses when it is made.
		"--allocate-node-cidrs=false",
		// There is only one, and with a lease it would end when it loses
		// sight of the API server.
		"--leader-elect=false",
		// The default of 20 requests a second slows tests that make and
		// delete many namespaces.
		"--kube-api-qps=200", "--kube-api-burst=400",
	)
}

// SchedulerCommand starts the scheduler.
func (c Config) SchedulerCommand() process.Command {
	config := c.configFile("scheduler.kubeconfig")
	return c.command(Scheduler,
		"--bind-address="+loopback.String(),
		"--secure-port="+strconv.Itoa(c.Plan.SchedulerPort),
		"--tls-cert-file="+c.pair("scheduler").Cert,
		"--tls-private-key-file="+c.pair("scheduler").Key,
		"--kubeconfig="+config,
		"--authentication-kubeconfig="+config,
		"--authorization-kubeconfig="+config,
		"--leader-elect=false",
	)
}

func (c Config) command(component string, args ...string) process.Command {
	return process.Command{
		Component: component,
		Program:   component,
		Path:      c.Binary,
		Args:      args,
		Log:       c.Cluster.Log(component),
		// Elsewhere these two share their processors with nobody: what
		// kubelet and webhooks wait for is not held up by pods that start.
		Precedes: component == APIServer || component == Etcd,
	}
}
