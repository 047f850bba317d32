// Walks page tables for tests, plainly, one level after the other as the manual tells it.
#ifndef QUIRE_VMM_KVM_TEST_PAGE_WALK_H_
#define QUIRE_VMM_KVM_TEST_PAGE_WALK_H_

#include <cstdint>
#include <cstring>
#include <optional>

#include "absl/types/span.h"
#include "vmm/kvm/guest_page_tables.h"

namespace quire {

struct WalkResult {
  Gpa gpa;
  bool large = false;
  bool writable = true;
  bool user = true;
  bool executable = true;
  bool dirty = false;
  bool accessed_at_every_level = true;
};

// Where `address` leads when the root of the tables is the first page of `tables`, which the guest sees at `gpa`.
// Nothing when it is not mapped or leads out of `tables`.
inline std::optional<WalkResult> WalkPageTables(absl::Span<const std::byte> tables, Gpa gpa, Gva address) {
  WalkResult result;
  uint64_t table = gpa.value();
  for (int shift : {39, 30, 21, 12}) {
    const uint64_t offset = table - gpa.value() + (address.value() >> shift & 0x1ff) * 8;
    if (table < gpa.value() || offset + 8 > tables.size()) return std::nullopt;
    uint64_t entry;
    std::memcpy(&entry, tables.data() + offset, 8);
    if ((entry & 1) == 0) return std::nullopt;
    result.writable &= (entry >> 1 & 1) != 0;
    result.user &= (entry >> 2 & 1) != 0;
    result.accessed_at_every_level &= (entry >> 5 & 1) != 0;
    result.executable &= entry >> 63 == 0;
    table = entry & 0x000ffffffffff000;
    const bool large = shift == 21 && (entry >> 7 & 1) != 0;
    if (shift != 12 && !large) continue;
    result.large = large;
    result.dirty = (entry >> 6 & 1) != 0;
    result.gpa = Gpa(table | (address.value() & ((uint64_t{1} << shift) - 1)));
    break;
  }
  return result;
}

}  // namespace quire

#endif  // QUIRE_VMM_KVM_TEST_PAGE_WALK_H_
