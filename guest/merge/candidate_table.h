// Which page had which content, in this pass of the merger: KSM's unstable tree as a hash table (ESX's hints).
//
// What is in it may be wrong: pages change, and a few bits of their hash are kept only. Who finds a page looks again.
#ifndef QUIRE_GUEST_MERGE_CANDIDATE_TABLE_H_
#define QUIRE_GUEST_MERGE_CANDIDATE_TABLE_H_

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/check.h"
#include "base/mapping.h"
#include "base/units.h"
#include "guest/merge/shared_frames.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace quire {

// 8 bytes an entry, and a third more entries than pages. For one thread.
//
//    63       52 51              36 35                                  0
//   +-----------+------------------+-------------------------------------+
//   |    tag    |      guest       |               gfn + 1               |
//   +-----------+------------------+-------------------------------------+
class CandidateTable {
 public:
  // Room for so many pages; memory is touched as they come.
  static absl::StatusOr<CandidateTable> Create(PageCount pages) {
    const uint64_t entries = pages.in_pages() + pages.in_pages() / 3 + kMostProbes;
    const PageCount size = PageCount::Ceil(ByteCount::Bytes(entries * sizeof(uint64_t)));
    absl::StatusOr<Mapping> memory =
        Mapping::Map(size.bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!memory.ok()) return memory.status();
    return CandidateTable(*std::move(memory), entries);
  }
  CandidateTable(CandidateTable&&) = default;

  // The page that was inserted with this hash, as far as the bits that are kept tell; or else inserts this one.
  std::optional<Sharer> FindOrInsert(uint64_t hash, Sharer page) {
    uint64_t* const home = Home(hash);
    for (uint64_t i = 0; i < kMostProbes; ++i) {
      uint64_t& entry = home[i];
      if (entry == 0) {
        entry = Pack(hash, page);
        ++used_;
        return std::nullopt;
      }
      if (entry >> kTagShift == Tag(hash)) return Unpack(entry);
    }
    return std::nullopt;  // crowded: this page waits for the next pass
  }
  // A word ahead of FindOrInsert: the entry is a cache miss away.
  void Prefetch(uint64_t hash) {
    uint64_t* const home = Home(hash);
    Populate(home);
    __builtin_prefetch(home, /*rw=*/1);
  }
  // Puts this page in the place of the one that FindOrInsert found.
  void Replace(uint64_t hash, Sharer page) {
    uint64_t* const home = Home(hash);
    for (uint64_t i = 0; i < kMostProbes && home[i] != 0; ++i) {
      if (home[i] >> kTagShift == Tag(hash)) return void(home[i] = Pack(hash, page));
    }
  }
  void Clear() {
    madvise(memory_.data(), memory_.size().in_bytes(), MADV_DONTNEED);
    std::fill(populated_.begin(), populated_.end(), false);
    used_ = 0;
  }
  ByteCount metadata() const { return ByteCount::Bytes(used_ * sizeof(uint64_t) * 4 / 3); }

 private:
  static constexpr uint64_t kMostProbes = 64;
  static constexpr int kTagShift = 52;
  static constexpr int kGuestShift = 36;
  static constexpr uint64_t kGfnMask = (uint64_t{1} << kGuestShift) - 1;

  // Memory is had in pieces, since a fault for each page, or two, would cost more than all else that is done here.
  static constexpr uint64_t kPiece = 64 << 10;

  CandidateTable(Mapping memory, uint64_t entries)
      : memory_(std::move(memory)),
        homes_(entries - kMostProbes + 1),
        populated_((memory_.size().in_bytes() + kPiece - 1) / kPiece) {}

  void Populate(const uint64_t* entry) {
    const uint64_t piece = static_cast<uint64_t>(reinterpret_cast<const std::byte*>(entry) - memory_.data()) / kPiece;
    if (populated_[piece]) return;
    populated_[piece] = true;
    const uint64_t begin = piece * kPiece;
    // Only to be faster: before Linux 5.14 there is no such thing.
    madvise(memory_.data() + begin, std::min(kPiece, memory_.size().in_bytes() - begin), MADV_POPULATE_WRITE);
  }

  // The tag and the place come from different bits.
  static uint64_t Tag(uint64_t hash) { return hash & 0xfff; }
  uint64_t* Home(uint64_t hash) const {
    const auto place = static_cast<uint64_t>(static_cast<unsigned __int128>(hash) * homes_ >> 64);
    return reinterpret_cast<uint64_t*>(memory_.data()) + place;
  }
  static uint64_t Pack(uint64_t hash, Sharer page) {
    QUIRE_CHECK(page.gfn.value() < kGfnMask);
    return Tag(hash) << kTagShift | static_cast<uint64_t>(page.guest) << kGuestShift | (page.gfn.value() + 1);
  }
  static Sharer Unpack(uint64_t entry) {
    return {.guest = GuestId{static_cast<uint16_t>(entry >> kGuestShift & 0xffff)}, .gfn = Gfn((entry & kGfnMask) - 1)};
  }

  Mapping memory_;
  uint64_t homes_;
  std::vector<bool> populated_;
  uint64_t used_ = 0;
};

}  // namespace quire

#endif  // QUIRE_GUEST_MERGE_CANDIDATE_TABLE_H_
