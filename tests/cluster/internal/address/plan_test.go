package address

import (
	"net/netip"
	"testing"
)

func TestEverythingOfAPlanLiesInItsBlock(t *testing.T) {
	for slot := range FullSlots {
		plan := mustPlan(t, slot)
		if !testRange.Contains(plan.Block.Addr()) || !testRange.Contains(last(plan.Block)) {
			t.Errorf("slot %d: block %s is not in %s", slot, plan.Block, testRange)
		}
		parts := []netip.Prefix{plan.Pods, plan.Services, plan.Link}
		for i, part := range parts {
			if part != part.Masked() {
				t.Errorf("slot %d: %s does not start at its own network address", slot, part)
			}
			if !plan.Block.Contains(part.Addr()) || !plan.Block.Contains(last(part)) {
				t.Errorf("slot %d: %s is not in %s", slot, part, plan.Block)
			}
			for _, other := range parts[i+1:] {
				if part.Overlaps(other) {
					t.Errorf("slot %d: %s overlaps %s", slot, part, other)
				}
			}
		}
		if !plan.Link.Contains(plan.Machine) {
			t.Errorf("slot %d: the machine's address %s is not on the link %s", slot, plan.Machine, plan.Link)
		}
		if !plan.Services.Contains(plan.KubernetesService) {
			t.Errorf("slot %d: %s is no service address", slot, plan.KubernetesService)
		}
	}
}

func TestNoTwoSlotsShareAPortAndNoTwoFullClustersAnAddress(t *testing.T) {
	ports := map[int]int{}
	var blocks []netip.Prefix
	for slot := range Slots {
		plan := mustPlan(t, slot)
		for _, port := range plan.Ports() {
			if other, taken := ports[port]; taken {
				t.Errorf("slots %d and %d share port %d", slot, other, port)
			}
			if port < 1024 || port >= 32768 {
				t.Errorf("slot %d: port %d is privileged or ephemeral", slot, port)
			}
			ports[port] = slot
		}
		if slot > FullSlots {
			continue
		}
		for other, block := range blocks {
			if plan.Block.Overlaps(block) {
				t.Errorf("slots %d and %d share addresses: %s, %s", slot, other, plan.Block, block)
			}
		}
		blocks = append(blocks, plan.Block)
	}
}

func TestNodesHaveRangesOfTheirOwnWithRoomForFourHundredPods(t *testing.T) {
	plan := mustPlan(t, FullSlots-1)
	var ranges []netip.Prefix
	addresses := map[netip.Addr]bool{plan.Machine: true}
	for index := 1; index <= MaxNodes; index++ {
		node, err := plan.Node(index)
		if err != nil {
			t.Fatal(err)
		}
		if addresses[node.Address] || !plan.Link.Contains(node.Address) {
			t.Errorf("node %d: address %s is taken or not on the link", index, node.Address)
		}
		addresses[node.Address] = true
		if !plan.Pods.Contains(node.Pods.Addr()) || !plan.Pods.Contains(last(node.Pods)) {
			t.Errorf("node %d: pods %s are not in %s", index, node.Pods, plan.Pods)
		}
		for _, other := range ranges {
			if node.Pods.Overlaps(other) {
				t.Errorf("node %d: pods %s overlap %s", index, node.Pods, other)
			}
		}
		ranges = append(ranges, node.Pods)
		if size := 1 << (32 - node.Pods.Bits()); size < 400 {
			t.Errorf("node %d: only %d pod addresses", index, size)
		}
		if len(node.Veth) > 15 {
			t.Errorf("node %d: Linux refuses the interface name %s, which is longer than 15", index, node.Veth)
		}
	}
}

func TestWhatCannotBePlannedIsRefused(t *testing.T) {
	for _, slot := range []int{-1, Slots} {
		if _, err := ForSlot(slot); err == nil {
			t.Errorf("slot %d was planned", slot)
		}
	}
	if _, err := mustPlan(t, FullSlots).Node(1); err == nil {
		t.Error("a node was planned where there is no link")
	}
	for _, index := range []int{0, MaxNodes + 1} {
		if _, err := mustPlan(t, 0).Node(index); err == nil {
			t.Errorf("node %d was planned", index)
		}
	}
}

func mustPlan(t *testing.T, slot int) Plan {
	t.Helper()
	plan, err := ForSlot(slot)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func last(prefix netip.Prefix) netip.Addr {
	return offset(prefix.Addr(), 1<<(32-prefix.Bits())-1)
}
