// KVM's own counters of one VM or one vCPU.
//
// A statistics descriptor is read like a file: a header, a description of each counter, the counters. Reading takes no
// lock and waits for nobody, a vCPU in the middle of a fault included; asking KVM for the descriptor does wait
// (KVM_GET_STATS_FD is an ioctl like any other), so it is done when the VM or vCPU is made.
//
// Source: Linux 5.14 and later, Documentation/virt/kvm/api.rst, 4.133 KVM_GET_STATS_FD. Which counters there are
// depends on the kernel; of use here: of a VM pages_4k, pages_2m (pages mapped now), remote_tlb_flush, mmu_cache_miss;
// of a vCPU exits, signal_exits, pf_taken, pf_fixed.
#ifndef QUIRE_VMM_KVM_KVM_STATS_H_
#define QUIRE_VMM_KVM_KVM_STATS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

namespace quire {

// Move-only. Thread safe.
class KvmStats {
 public:
  // Reads the descriptions from `fd`, a statistics descriptor (of a VM or vCPU, or a file of that form).
  // Errors: DataLoss when the form is not understood, Unavailable when it cannot be read.
  static absl::StatusOr<KvmStats> Open(UniqueFd fd);

  // The counter's value now. Errors: NotFound when this kernel does not count it.
  absl::StatusOr<uint64_t> Read(absl::string_view name) const;

  // All counters that are single numbers (histograms are left out), in alphabetical order.
  std::vector<std::string> names() const;

 private:
  KvmStats(UniqueFd fd, std::map<std::string, uint64_t, std::less<>> offsets);

  UniqueFd fd_;
  std::map<std::string, uint64_t, std::less<>> offsets_;  // in the file
};

}  // namespace quire

#endif  // QUIRE_VMM_KVM_KVM_STATS_H_
