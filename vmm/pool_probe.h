// Tries what the guests' pool would be on this host.
#ifndef QUIRE_VMM_POOL_PROBE_H_
#define QUIRE_VMM_POOL_PROBE_H_

#include "absl/status/status.h"

namespace quire {

// What became of a pool of a few megabytes.
struct PoolOffer {
  absl::Status created = {};
  bool tmpfs = false;      // on a private mount; else a memfd
  bool huge = false;       // a store populated a whole 2 MiB block
  int collapse_error = 0;  // of mapping that block into a window by MADV_COLLAPSE
};

// May fork: call before threads are started.
PoolOffer ProbePool();

}  // namespace quire

#endif  // QUIRE_VMM_POOL_PROBE_H_
