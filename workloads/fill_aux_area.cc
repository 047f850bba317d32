#include "workloads/fill_aux_area.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "base/check.h"
#include "workloads/guest_abi.h"

namespace quire {
namespace {

// Each part begins on a cache line of its own.
static_assert(sizeof(OperationLatency) % 64 == 0);
uint64_t VersionsOffset(uint32_t vcpus) { return kLatencyOffset + vcpus * sizeof(OperationLatency); }

PageCount ShareOfUsed(double share, const WorkloadSpec& spec, PageCount memory) {
  const PageCount used = UsedPages(spec, memory);
  return std::min(PageCount(static_cast<uint64_t>(std::round(share * static_cast<double>(used.in_pages())))), used);
}

}  // namespace

PageCount UsedPages(const WorkloadSpec& spec, PageCount memory) {
  const double used = std::round(spec.touched * static_cast<double>(memory.in_pages()));
  return PageCount(std::clamp<uint64_t>(static_cast<uint64_t>(used), 1, memory.in_pages()));
}

PageCount AdvisedPages(const WorkloadSpec& spec, PageCount memory) { return ShareOfUsed(spec.advise, spec, memory); }

PageCount PagesToWire(const WorkloadSpec& spec, PageCount memory) { return ShareOfUsed(spec.wired, spec, memory); }

PageCount CommonPages(const WorkloadSpec& spec, PageCount memory) { return ShareOfUsed(spec.common, spec, memory); }

ByteCount AuxScratchSize(const AuxParameters& parameters) {
  const uint64_t versions = UsedPages(parameters.spec, parameters.memory).in_pages() * sizeof(uint32_t);
  return PageCount::Ceil(ByteCount::Bytes(VersionsOffset(parameters.vcpus) + versions)).bytes();
}

void FillAuxArea(const AuxParameters& parameters, uint64_t guest_address, absl::Span<std::byte> scratch) {
  QUIRE_CHECK(parameters.vcpus > 0 && parameters.vcpus <= QUIRE_MAX_VCPUS);
  QUIRE_CHECK(scratch.size() == AuxScratchSize(parameters).in_bytes());
  AuxArea* area = new (scratch.data()) AuxArea();
  area->magic = kAuxMagic;
  area->used_pages = UsedPages(parameters.spec, parameters.memory).in_pages();
  area->advised_pages = AdvisedPages(parameters.spec, parameters.memory).in_pages();
  area->wired_pages = PagesToWire(parameters.spec, parameters.memory).in_pages();
  area->spec = parameters.spec;
  area->content = parameters.content;
  area->content.common_pages = CommonPages(parameters.spec, parameters.memory).in_pages();
  area->latency = reinterpret_cast<OperationLatency*>(guest_address + kLatencyOffset);
  area->versions = reinterpret_cast<uint32_t*>(guest_address + VersionsOffset(parameters.vcpus));
  if (parameters.spec.kind == WorkloadKind::kZipf)
    BuildZipfTable(PageCountOfVcpu(area->used_pages, 0, parameters.vcpus), parameters.spec.theta, area->zipf);
}

}  // namespace quire
