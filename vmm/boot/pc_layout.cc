#include "vmm/boot/pc_layout.h"

#include <algorithm>

namespace quire {
namespace {

MemoryMapEntry Entry(Gpa begin, Gpa end, MemoryMapEntry::Type type) {
  return {.begin = begin, .size = ByteCount::Bytes(end.value() - begin.value()), .type = type};
}

}  // namespace

GuestRegions PcRegions(ByteCount memory) {
  const Gfn end(memory.in_bytes() >> kPageShift);
  const Gfn low_end = std::min(end, kLowMemoryLimit.gfn());
  GuestRegions regions;
  if (low_end > Gfn(0)) regions.push_back({.gpa = Gpa(0), .pages = GfnRange(Gfn(0), low_end)});
  if (end > low_end) regions.push_back({.gpa = kHighMemoryBegin, .pages = GfnRange(low_end, end)});
  return regions;
}

std::vector<MemoryMapEntry> PcMemoryMap(ByteCount memory) {
  using Type = MemoryMapEntry::Type;
  std::vector<MemoryMapEntry> map;
  map.push_back(Entry(Gpa(0), kBaseMemoryEnd, Type::kMemory));
  map.push_back(Entry(kBaseMemoryEnd, Gpa(0xa0000), Type::kReserved));
  map.push_back(Entry(kAcpiBegin, kAcpiEnd, Type::kReserved));
  for (const GuestRegion& region : PcRegions(memory)) {
    const Gpa begin = std::max(region.gpa, kKernelBegin);
    map.push_back(Entry(begin, region.gpa + region.pages.size().bytes(), Type::kMemory));
  }
  return map;
}

}  // namespace quire
