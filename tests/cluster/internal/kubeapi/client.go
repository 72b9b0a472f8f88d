// Package kubeapi asks an API server the few things that starting a cluster
// has to know. It is a handful of requests without a body; a client library would take
// longer to compile than everything else here.
package kubeapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"pullpass.dev/tests/cluster/internal/pki"
)

// Client asks as one user.
type Client struct {
	server string
	http   *http.Client
}

// New returns a client of the API server at the URL, whose certificate the
// authority in file ca has signed, as the user of the certificate.
func New(server, ca string, user pki.Pair) (*Client, error) {
	authority, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%s holds no certificate", ca)
	}
	certificate, err := tls.LoadX509KeyPair(user.Cert, user.Key)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		// A server that is started anew must not be asked over the
		// connection to its predecessor.
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{certificate}},
	}
	return &Client{server: server, http: &http.Client{Transport: transport, Timeout: 5 * time.Second}}, nil
}

// Ready returns nil once the API server serves requests.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.get(ctx, "/readyz")
	return err
}

// Healthy returns nil if a component that serves this says it is healthy.
func (c *Client) Healthy(ctx context.Context) error {
	_, err := c.get(ctx, "/healthz")
	return err
}

// NodeReady returns nil if kubelet has reported that the node can run pods,
// at or after the given time, and pods are admitted to it.
func (c *Client) NodeReady(ctx context.Context, name string, since time.Time) error {
	body, err := c.get(ctx, "/api/v1/nodes/"+name)
	if err != nil {
		return err
	}
	return nodeReady(body, since)
}

func nodeReady(body []byte, since time.Time) error {
	var node struct {
		Spec struct {
			Taints []struct{ Key string }
		}
		Status struct {
			Conditions []struct {
				Type, Status, Message string
				LastHeartbeatTime     time.Time
			}
		}
	}
	if err := json.Unmarshal(body, &node); err != nil {
		return err
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type != "Ready" {
			continue
		}
		if condition.Status != "True" {
			return fmt.Errorf("node is not ready: %s", condition.Message)
		}
		// The API has whole seconds only.
		if condition.LastHeartbeatTime.Before(since.Truncate(time.Second)) {
			return errors.New("kubelet has not reported since it was started")
		}
		for _, taint := range node.Spec.Taints {
			// Others are somebody's who takes them off by himself.
			if strings.HasPrefix(taint.Key, "node.kubernetes.io/") {
				return fmt.Errorf("node has the taint %s", taint.Key)
			}
		}
		return nil
	}
	return errors.New("kubelet has not reported yet")
}

// Exists returns nil if there is an object at the path.
func (c *Client) Exists(ctx context.Context, path string) error {
	_, err := c.get(ctx, path)
	return err
}

// Delete deletes the object at the path, which need not be there.
func (c *Client) Delete(ctx context.Context, path string) error {
	_, status, err := c.do(ctx, http.MethodDelete, path)
	if err == nil && status != http.StatusOK && status != http.StatusNotFound {
		err = fmt.Errorf("delete %s%s: %s", c.server, path, http.StatusText(status))
	}
	return err
}

func (c *Client) get(ctx context.Context, path string) ([]byte, error) {
	body, status, err := c.do(ctx, http.MethodGet, path)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s%s: %s", c.server, path, http.StatusText(status))
	}
	return body, err
}

func (c *Client) do(ctx context.Context, method, path string) ([]byte, int, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.server+path, nil)
	if err != nil {
		return nil, 0, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return body, response.StatusCode, err
}
