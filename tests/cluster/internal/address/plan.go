// Package address gives every cluster on a machine addresses and ports of its
// own. All addresses come from 198.18.0.0/15, which RFC 2544 reserves for
// tests, so that they never collide with a real network.
package address

import (
	"fmt"
	"net/netip"
	"strconv"
)

// Slots are numbered across the whole machine. The first ones are for full
// clusters, which need addresses; the others only need ports.
const (
	FullSlots = 15
	Slots     = 64
)

// MaxNodes is how many nodes the address block of a cluster has room for.
const MaxNodes = 4

const (
	// Below the range that Linux takes ephemeral ports from (32768 and up).
	firstPort    = 26000
	portsPerSlot = 16

	blockBits = 19
	podBits   = 22
)

var testRange = netip.MustParsePrefix("198.18.0.0/15")

// Plan is everything about a cluster's network that follows from its slot.
type Plan struct {
	Slot int
	// Block contains every other address of the plan.
	Block netip.Prefix
	// Pods is the range of all nodes' pods, Services that of Service addresses.
	Pods, Services netip.Prefix
	// Link joins the machine and the nodes.
	Link netip.Prefix
	// Machine is the machine's own address on the link.
	Machine netip.Addr
	// KubernetesService is the address of the Service default/kubernetes.
	KubernetesService netip.Addr
	// Bridge is the name of the link's interface on the machine.
	Bridge string
	// APIServer and Registry listen on the machine's address; the others
	// only on the loopback address. So does the API server where there is
	// no node.
	APIServerPort, EtcdClientPort, EtcdPeerPort, ControllerManagerPort, SchedulerPort, RegistryPort int
}

// Node is the network of one node.
type Node struct {
	// Address is the node's own, on the link.
	Address netip.Addr
	// Pods is the range that the node's pods take addresses from.
	Pods netip.Prefix
	// Veth is the machine's end of the pair that joins the node to the bridge.
	Veth string
}

// ForSlot plans the cluster of a slot. Slots from FullSlots on have ports of
// their own but share a block of addresses, of which they use none on a link.
func ForSlot(slot int) (Plan, error) {
	if slot < 0 || slot >= Slots {
		return Plan{}, fmt.Errorf("slot %d is not between 0 and %d", slot, Slots-1)
	}
	blockStart := offset(testRange.Addr(), min(slot, FullSlots)<<(32-blockBits))
	services := offset(blockStart, 1<<12)
	link := offset(blockStart, 1<<12+1<<10)
	port := firstPort + slot*portsPerSlot
	return Plan{
		Slot:                  slot,
		Block:                 netip.PrefixFrom(blockStart, blockBits),
		Pods:                  netip.PrefixFrom(blockStart, 20),
		Services:              netip.PrefixFrom(services, 22),
		Link:                  netip.PrefixFrom(link, 24),
		Machine:               link.Next(),
		KubernetesService:     services.Next(),
		Bridge:                "pullpass" + strconv.Itoa(slot),
		APIServerPort:         port,
		EtcdClientPort:        port + 1,
		EtcdPeerPort:          port + 2,
		ControllerManagerPort: port + 3,
		SchedulerPort:         port + 4,
		RegistryPort:          port + 5,
	}, nil
}

// HasLink tells whether the slot's cluster has nodes and so a link of its own.
func (p Plan) HasLink() bool { return p.Slot < FullSlots }

// Ports lists every port that the cluster listens on.
func (p Plan) Ports() []int {
	return []int{p.APIServerPort, p.EtcdClientPort, p.EtcdPeerPort, p.ControllerManagerPort, p.SchedulerPort, p.RegistryPort}
}

// Node plans a node; the first one has index 1.
func (p Plan) Node(index int) (Node, error) {
	if !p.HasLink() {
		return Node{}, fmt.Errorf("a cluster in slot %d has no nodes", p.Slot)
	}
	if index < 1 || index > MaxNodes {
		return Node{}, fmt.Errorf("node %d: a cluster has nodes 1 to %d", index, MaxNodes)
	}
	return Node{
		Address: offset(p.Machine, index),
		Pods:    netip.PrefixFrom(offset(p.Block.Addr(), (index-1)<<(32-podBits)), podBits),
		Veth:    fmt.Sprintf("%sn%d", p.Bridge, index),
	}, nil
}

func offset(start netip.Addr, by int) netip.Addr {
	bytes := start.As4()
	value := uint32(bytes[0])<<24 | uint32(bytes[1])<<16 | uint32(bytes[2])<<8 | uint32(bytes[3])
	value += uint32(by)
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)})
}
