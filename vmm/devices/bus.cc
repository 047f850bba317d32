#include "vmm/devices/bus.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"

namespace quire {

void Bus::Attach(uint64_t begin, uint64_t size, BusDevice* device, uint64_t offset) {
  const uint64_t last = begin + (size - 1);
  QUIRE_CHECK(size > 0 && last >= begin);
  const auto after = ranges_.upper_bound(begin);
  QUIRE_CHECK(after == ranges_.end() || after->first > last);
  QUIRE_CHECK(after == ranges_.begin() || std::prev(after)->second.last < begin);
  ranges_.emplace(begin, Range{.last = last, .device = device, .offset = offset});
}

Bus::Place Bus::Find(uint64_t address, size_t size) const {
  auto found = ranges_.upper_bound(address);
  if (size == 0 || found == ranges_.begin()) return {};
  --found;
  const Range& range = found->second;
  // Not by the access's end, which may overflow.
  if (address > range.last || size - 1 > range.last - address) return {};
  return {.device = range.device, .offset = range.offset + (address - found->first)};
}

bool Bus::Read(uint64_t address, absl::Span<std::byte> data) const {
  const Place place = Find(address, data.size());
  if (place.device == nullptr) {
    std::fill(data.begin(), data.end(), std::byte{0xff});
    return false;
  }
  place.device->Read(place.offset, data);
  return true;
}

bool Bus::Write(uint64_t address, absl::Span<const std::byte> data) const {
  const Place place = Find(address, data.size());
  if (place.device == nullptr) return false;
  place.device->Write(place.offset, data);
  return true;
}

}  // namespace quire
