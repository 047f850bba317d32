#include "vmm/kvm/guest_page_tables.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace quire {
namespace {

constexpr int kRootLevel = 4;
constexpr uint64_t kAddressSpaceEnd = uint64_t{1} << 47;

// Lowest bit of the address that selects the entry in a table of `level` (4 is the root, 1 holds 4 KiB pages).
constexpr int Shift(int level) { return kPageShift + 9 * (level - 1); }
constexpr uint64_t EntryIndex(uint64_t address, int level) { return (address >> Shift(level)) % kPagesPerBlock; }

// Level of the table whose entry maps what comes next: 2 for a 2 MiB page, 1 for a 4 KiB page.
int LeafLevel(uint64_t address, uint64_t gpa, uint64_t left) {
  return (address | gpa) % kBlockSize == 0 && left >= kBlockSize ? 2 : 1;
}

// Visits the pages of `mappings` in order. Because addresses ascend, a table is complete once another of its level is
// begun, so only the current one of each level needs to be known.
//   sink.BeginTable(level, address)      a table of that level is needed from here on; the one above it is begun
//   sink.Map(level, address, gpa, mapping)
template <class Sink>
void Visit(absl::Span<const GuestMapping> mappings, Sink& sink) {
  uint64_t begun[kRootLevel] = {~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}};  // begun[n]: level n's prefix
  uint64_t mapped_up_to = 0;
  for (const GuestMapping& mapping : mappings) {
    uint64_t address = mapping.address.value(), gpa = mapping.gpa.value(), left = mapping.size.in_bytes();
    QUIRE_CHECK((address | gpa | left) % kPageSize == 0 && left > 0);
    QUIRE_CHECK(address >= mapped_up_to && left <= kAddressSpaceEnd && address <= kAddressSpaceEnd - left);
    mapped_up_to = address + left;
    while (left > 0) {
      const int leaf = LeafLevel(address, gpa, left);
      for (int level = kRootLevel - 1; level >= leaf; --level) {
        const uint64_t prefix = address >> Shift(level + 1);
        if (begun[level] != prefix) sink.BeginTable(level, address);
        begun[level] = prefix;
      }
      sink.Map(leaf, address, gpa, mapping);
      const uint64_t size = uint64_t{1} << Shift(leaf);
      address += size, gpa += size, left -= size;
    }
  }
}

struct Counter {
  void BeginTable(int, uint64_t) { ++tables; }
  void Map(int, uint64_t, uint64_t, const GuestMapping&) {}
  uint64_t tables = 1;  // the root
};

class Writer {
 public:
  Writer(Gpa gpa, absl::Span<std::byte> memory) : gpa_(gpa), memory_(memory) { BeginRoot(); }

  void BeginTable(int level, uint64_t address) {
    current_[level] = NewTable();
    // Rights are those of the page: tables above it grant everything.
    Entry(level + 1, address) = TableGpa(current_[level]) | kPtePresent | kPteWritable | kPteUser | kPteAccessed;
  }

  void Map(int level, uint64_t address, uint64_t gpa, const GuestMapping& mapping) {
    Entry(level, address) = gpa | kPtePresent | kPteAccessed | kPteDirty | (level == 2 ? kPteLarge : 0) |
                            (mapping.writable ? kPteWritable : 0) | (mapping.user ? kPteUser : 0) |
                            (mapping.executable ? 0 : kPteNoExecute);
  }

 private:
  void BeginRoot() { current_[kRootLevel] = NewTable(); }

  uint64_t NewTable() {
    QUIRE_CHECK((used_ + 1) * kPageSize <= memory_.size());
    std::memset(memory_.data() + used_ * kPageSize, 0, kPageSize);
    return used_++;
  }
  uint64_t TableGpa(uint64_t table) const { return gpa_.value() + table * kPageSize; }
  uint64_t& Entry(int level, uint64_t address) {
    auto* entries = reinterpret_cast<uint64_t*>(memory_.data() + current_[level] * kPageSize);
    return entries[EntryIndex(address, level)];
  }

  const Gpa gpa_;
  const absl::Span<std::byte> memory_;
  uint64_t used_ = 0;
  uint64_t current_[kRootLevel + 1] = {};  // number of the table being filled, by level
};

}  // namespace

PageCount CountPageTables(absl::Span<const GuestMapping> mappings) {
  Counter counter;
  Visit(mappings, counter);
  return PageCount(counter.tables);
}

void WritePageTables(absl::Span<const GuestMapping> mappings, Gpa gpa, absl::Span<std::byte> tables) {
  Writer writer(gpa, tables);
  Visit(mappings, writer);
}

}  // namespace quire
