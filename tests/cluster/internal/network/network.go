// Package network joins nodes and the machine: a bridge on the machine, and a
// pair of interfaces from it into each node. There is no route out.
package network

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"pullpass.dev/tests/cluster/internal/address"
)

// EnsureBridge makes the machine's end of the link, with its address.
func EnsureBridge(plan address.Plan) error {
	if !exists(plan.Bridge) {
		if err := ip("link", "add", plan.Bridge, "type", "bridge"); err != nil {
			return err
		}
	}
	own := plan.Machine.String() + "/" + strconv.Itoa(plan.Link.Bits())
	if err := ip("address", "replace", own, "dev", plan.Bridge); err != nil {
		return err
	}
	return ip("link", "set", plan.Bridge, "up")
}

// EnsureNode joins a node, given by the id of a process in its network
// namespace, to the bridge. Pods of the node are reached through it, and so
// are Service addresses if it is the first.
func EnsureNode(plan address.Plan, index, pid int) error {
	node, err := plan.Node(index)
	if err != nil {
		return err
	}
	inside := strconv.Itoa(pid)
	if !exists(node.Veth) {
		if err := ip("link", "add", node.Veth, "type", "veth", "peer", "name", "eth0", "netns", inside); err != nil {
			return err
		}
	}
	if err := ip("link", "set", node.Veth, "master", plan.Bridge, "up"); err != nil {
		return err
	}
	own := node.Address.String() + "/" + strconv.Itoa(plan.Link.Bits())
	for _, command := range [][]string{
		{"link", "set", "lo", "up"},
		{"address", "replace", own, "dev", "eth0"},
		{"link", "set", "eth0", "up"},
	} {
		if err := run("nsenter", append([]string{"--net", "--target", inside, "ip"}, command...)...); err != nil {
			return err
		}
	}
	for other := 1; other <= address.MaxNodes; other++ {
		// whether it is there or not: it may come later
		if err := routeToOther(plan, index, other, inside); err != nil {
			return err
		}
	}
	if err := ip("route", "replace", node.Pods.String(), "via", node.Address.String(), "dev", plan.Bridge); err != nil {
		return err
	}
	if index == 1 {
		return ip("route", "replace", plan.Services.String(), "via", node.Address.String(), "dev", plan.Bridge)
	}
	return nil
}

// routeToOther leads from inside a node to the pods of another.
func routeToOther(plan address.Plan, index, other int, inside string) error {
	if other == index {
		return nil
	}
	node, err := plan.Node(other)
	if err != nil {
		return err
	}
	return run("nsenter", "--net", "--target", inside,
		"ip", "route", "replace", node.Pods.String(), "via", node.Address.String(), "dev", "eth0")
}

// Remove removes every interface of the plan from the machine, and with them
// addresses and routes.
func Remove(plan address.Plan) error {
	if !plan.HasLink() {
		return nil
	}
	for index := 1; index <= address.MaxNodes; index++ {
		if err := RemoveNode(plan, index); err != nil {
			return err
		}
	}
	return remove(plan.Bridge)
}

// RemoveNode removes the pair that joins a node, and the route to its pods. The
// kernel removes the pair itself some time after the node's end.
func RemoveNode(plan address.Plan, index int) error {
	node, err := plan.Node(index)
	if err != nil {
		return err
	}
	if exists(plan.Bridge) {
		if err := ip("route", "flush", node.Pods.String(), "dev", plan.Bridge); err != nil {
			return err
		}
	}
	return remove(node.Veth)
}

func remove(link string) error {
	if !exists(link) {
		return nil
	}
	if err := ip("link", "delete", link); err != nil && exists(link) {
		return err
	}
	return nil
}

// Taken tells who else on the machine uses addresses of the plan's block.
func Taken(plan address.Plan) (string, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	for _, one := range interfaces {
		if one.Name == plan.Bridge {
			continue
		}
		addresses, err := one.Addrs()
		if err != nil {
			continue
		}
		for _, own := range addresses {
			if prefix, ok := own.(*net.IPNet); ok {
				if prefix.Contains(plan.Block.Addr().AsSlice()) || plan.Block.Contains(unmapped(prefix.IP)) {
					return one.Name, nil
				}
			}
		}
	}
	return "", nil
}

func unmapped(ip net.IP) netip.Addr {
	address, _ := netip.AddrFromSlice(ip)
	return address.Unmap()
}

func exists(link string) bool {
	_, err := os.Stat(filepath.Join("/sys/class/net", link))
	return err == nil
}

func ip(args ...string) error { return run("ip", args...) }

func run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(output.String()))
	}
	return nil
}
