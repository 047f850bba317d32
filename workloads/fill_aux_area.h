// The host's side of aux_area.h: how large a guest's scratch area is, and what stands in it at the start.
#ifndef QUIRE_WORKLOADS_FILL_AUX_AREA_H_
#define QUIRE_WORKLOADS_FILL_AUX_AREA_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "base/units.h"
#include "workloads/aux_area.h"
#include "workloads/content.h"
#include "workloads/workload_spec.h"

namespace quire {

struct AuxParameters {
  WorkloadSpec spec;
  Content content;   // file_pages: where the guest will see them
  PageCount memory;  // the guest's memory, 1 to 2^32 - 1 pages
  uint32_t vcpus;    // 1 to QUIRE_MAX_VCPUS
};

// Pages of a guest's memory that the workload uses, at least one.
PageCount UsedPages(const WorkloadSpec& spec, PageCount memory);

// Of those, from the first on, the pages that the guest wants whole blocks for.
PageCount AdvisedPages(const WorkloadSpec& spec, PageCount memory);
// Of those, from the first on, the pages that the guest wires.
PageCount PagesToWire(const WorkloadSpec& spec, PageCount memory);
// How many of them, from the first one on, all guests of a run fill alike.
PageCount CommonPages(const WorkloadSpec& spec, PageCount memory);

// Where the latencies begin in the scratch area.
inline constexpr uint64_t kLatencyOffset = (sizeof(AuxArea) + 63) / 64 * 64;

// Size of the scratch area, a whole number of pages.
ByteCount AuxScratchSize(const AuxParameters& parameters);

// Fills `scratch`, of AuxScratchSize() bytes that are zero, page-aligned, and that the guest will see at address
// `guest_address`. For software vCPUs that is scratch.data().
void FillAuxArea(const AuxParameters& parameters, uint64_t guest_address, absl::Span<std::byte> scratch);

}  // namespace quire

#endif  // QUIRE_WORKLOADS_FILL_AUX_AREA_H_
