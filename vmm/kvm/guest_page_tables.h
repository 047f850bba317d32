// The page tables a guest starts on and never changes: four levels, built by the host, out of the guest's own reach.
//
// An entry, at every level (Intel SDM volume 3, 4.5 "4-level paging"; AMD APM volume 2, 5.3):
//
//   63   62           52 51                                  12 11   9  8   7   6   5   4   3   2   1   0
//  +----+---------------+--------------------------------------+------+---+---+---+---+-------+---+---+---+
//  | NX |      0        |     page number of table or page     |  0   | 0 |PS | D | A |   0   | U | W | P |
//  +----+---------------+--------------------------------------+------+---+---+---+---+-------+---+---+---+
//
// P present, W writable, U reachable from privilege level 3, A accessed, D dirty, PS a 2 MiB page rather than a table
// (level 2 only), NX not executable. A and D are set beforehand: the processor, or a KVM that shadows these tables,
// then never writes to them.
//
// Pages of 2 MiB are used wherever address, guest physical address and what is left of a mapping allow it. A KVM
// without nested paging can use 2 MiB pages of the host only under 2 MiB pages of the guest.
#ifndef QUIRE_VMM_KVM_GUEST_PAGE_TABLES_H_
#define QUIRE_VMM_KVM_GUEST_PAGE_TABLES_H_

#include <compare>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "base/units.h"

namespace quire {

// A guest virtual address.
class Gva {
 public:
  constexpr Gva() = default;
  constexpr explicit Gva(uint64_t value) : value_(value) {}
  constexpr uint64_t value() const { return value_; }
  friend constexpr auto operator<=>(Gva, Gva) = default;
  friend constexpr Gva operator+(Gva a, ByteCount n) { return Gva(a.value_ + n.in_bytes()); }

 private:
  uint64_t value_ = 0;
};

// `size` bytes of the guest's address space at `address`, which are its physical memory at `gpa`. All three are
// multiples of 4 KiB, size is not zero, and the addresses lie in the lower half of the address space (below 2^47).
struct GuestMapping {
  Gva address;
  Gpa gpa;
  ByteCount size;
  bool writable = false;
  bool executable = false;
  bool user = true;  // reachable by the program itself, which runs at privilege level 3
};

// Number of tables, 4 KiB each, that WritePageTables writes for `mappings`. The mappings are in ascending order of
// address and do not overlap. Where they point to matters only modulo 2 MiB. Pure.
PageCount CountPageTables(absl::Span<const GuestMapping> mappings);

// Writes the tables for `mappings` (as above) to `tables`, at least as large as CountPageTables says, which the guest
// will see at `gpa`. The first table is the root: CR3 is `gpa`. Nothing may run on the tables meanwhile.
void WritePageTables(absl::Span<const GuestMapping> mappings, Gpa gpa, absl::Span<std::byte> tables);

// The bits drawn above.
inline constexpr uint64_t kPtePresent = uint64_t{1} << 0;
inline constexpr uint64_t kPteWritable = uint64_t{1} << 1;
inline constexpr uint64_t kPteUser = uint64_t{1} << 2;
inline constexpr uint64_t kPteAccessed = uint64_t{1} << 5;
inline constexpr uint64_t kPteDirty = uint64_t{1} << 6;
inline constexpr uint64_t kPteLarge = uint64_t{1} << 7;
inline constexpr uint64_t kPteNoExecute = uint64_t{1} << 63;
inline constexpr uint64_t kPteAddress = 0x000f'ffff'ffff'f000;

static_assert((kPteAddress &
               (kPtePresent | kPteWritable | kPteUser | kPteAccessed | kPteDirty | kPteLarge | kPteNoExecute)) == 0);
static_assert(kPageSize / sizeof(uint64_t) == kPagesPerBlock, "a table has an entry for each page of a block");

}  // namespace quire

#endif  // QUIRE_VMM_KVM_GUEST_PAGE_TABLES_H_
