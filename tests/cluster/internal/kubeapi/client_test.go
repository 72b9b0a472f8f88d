package kubeapi

import (
	"testing"
	"time"
)

func TestANodeIsReadyOnlyByAFreshReportAndWithoutTaints(t *testing.T) {
	start := time.Date(2030, 1, 2, 3, 4, 5, 900, time.UTC)
	cases := map[string]struct {
		node  string
		ready bool
	}{
		"ready in the same second": {`{"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":"2030-01-02T03:04:05Z"}]}}`, true},
		"other conditions first":   {`{"status":{"conditions":[{"type":"DiskPressure","status":"False"},{"type":"Ready","status":"True","lastHeartbeatTime":"2030-01-02T03:04:06Z"}]}}`, true},
		"reported before":          {`{"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":"2030-01-02T03:04:04Z"}]}}`, false},
		"not ready":                {`{"status":{"conditions":[{"type":"Ready","status":"False","lastHeartbeatTime":"2030-01-02T03:04:06Z"}]}}`, false},
		"tainted":                  {`{"spec":{"taints":[{"key":"node.kubernetes.io/not-ready"}]},"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":"2030-01-02T03:04:06Z"}]}}`, false},
		"tainted otherwise":        {`{"spec":{"taints":[{"key":"example.com/not-yet"}]},"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":"2030-01-02T03:04:06Z"}]}}`, true},
		"nothing reported":         {`{}`, false},
		"no JSON":                  {`<html>`, false},
	}
	for name, c := range cases {
		if err := nodeReady([]byte(c.node), start); (err == nil) != c.ready {
			t.Errorf("%s: %v", name, err)
		}
	}
}
