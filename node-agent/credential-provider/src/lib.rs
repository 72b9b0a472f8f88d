//! A kubelet credential provider plugin that obeys the namespace policy of Pullpass.
