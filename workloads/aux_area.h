// What Quire's own workloads are given beside the boot info (boot_info->aux): what to do, what pages hold, and a table
// of the versions that pages should have. Freestanding: also compiled into the payload of KVM guests.
//
//   scratch: one for each guest, read and written by it, wired     AuxArea
//                                                                  latency: OperationLatency for each vCPU
//                                                                  versions: uint32_t for each page that is used
//   content: read-only, one copy for all guests, optional          pages of the content file
//
// fill_aux_area.h fills the scratch part. Pointers are addresses as the guest sees them: those of the guest's page
// tables under KVM, the process's own for software vCPUs. The versions lie outside the memory under test, so that a
// stale page is noticed. The host reads nothing of the area again but the latencies, as claims: a guest may write
// anything there.
#ifndef QUIRE_WORKLOADS_AUX_AREA_H_
#define QUIRE_WORKLOADS_AUX_AREA_H_

#include <stdint.h>

#include "workloads/content.h"
#include "workloads/operation_latency.h"
#include "workloads/workload_spec.h"
#include "workloads/zipf.h"

namespace quire {

inline constexpr uint64_t kAuxMagic = 0x7875616572697571;  // "quireaux"

struct AuxArea {
  uint64_t magic;          // kAuxMagic
  uint64_t used_pages;     // pages 0 to used_pages - 1 of the guest's memory are used
  uint64_t advised_pages;  // of those, from page 0 on, the guest wants whole blocks for so many
  uint64_t wired_pages;    // and so many, from page 0 on, are to stay in memory
  WorkloadSpec spec;
  Content content;
  uint64_t go;                // sweep: the host sets this to 1 when it is to begin
  OperationLatency* latency;  // one for each vCPU, all 0 at first
  uint32_t* versions;         // used_pages of them, 0 at first; each used only by the vCPU whose page it is
  ZipfTable zipf;             // for WorkloadKind::kZipf
};

// Pages are dealt out to vCPUs one by one: vCPUs share blocks, but never a page.
constexpr uint64_t PageOfVcpu(uint64_t index, uint32_t vcpu, uint32_t vcpus) { return index * vcpus + vcpu; }

// How many of `pages` pages are this vCPU's.
constexpr uint64_t PageCountOfVcpu(uint64_t pages, uint32_t vcpu, uint32_t vcpus) {
  return (pages + vcpus - 1 - vcpu) / vcpus;
}

}  // namespace quire

#endif  // QUIRE_WORKLOADS_AUX_AREA_H_
