// Chains of pages that share something: a frame, or a page of a template. A page leaves its chain in constant time, and
// all of a chain are found in time proportional to their number. 16 bytes a page.
#ifndef QUIRE_GUEST_MERGE_SHARER_CHAINS_H_
#define QUIRE_GUEST_MERGE_SHARER_CHAINS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/units.h"
#include "guest/frames/frame_table.h"
#include "guest/merge/share_link.h"

namespace quire {

// One page of one guest.
struct Sharer {
  GuestId guest;
  Gfn gfn;

  friend bool operator==(const Sharer&, const Sharer&) = default;
};

// Not thread safe: its owner's lock guards it.
class SharerChains {
 public:
  // Where a chain begins; its owner keeps it. Empty at first.
  class Chain {
   public:
    bool empty() const { return first_ == kNone; }

   private:
    friend class SharerChains;
    uint32_t first_ = kNone;
  };

  // The link is the sharer's place in the chain until it is removed; then it may become another's.
  ShareLink Add(Chain& chain, Sharer sharer);
  // `link` is one of the chain.
  void Remove(Chain& chain, ShareLink link);
  // Empties the chain, and calls visit(Sharer) for each that was in it.
  template <class Visit>
  void Clear(Chain& chain, Visit visit) {
    while (!chain.empty()) {
      const ShareLink link(chain.first_);
      visit(Unpack(links_[link.value()].sharer));
      Remove(chain, link);
    }
  }
  // Whether the link is this sharer's, in whichever chain.
  bool IsOf(ShareLink link, Sharer sharer) const {
    return link.value() < links_.size() && links_[link.value()].sharer == Pack(sharer);
  }

  // Calls visit(Sharer, ShareLink) for each, the latest first.
  template <class Visit>
  void ForEach(const Chain& chain, Visit visit) const {
    for (uint32_t at = chain.first_; at != kNone; at = links_[at].next) visit(Unpack(links_[at].sharer), ShareLink(at));
  }
  // Whether the chain has this link, which takes a search.
  bool Has(const Chain& chain, ShareLink link) const;
  // Nullopt: its links do not agree.
  std::optional<size_t> LengthOf(const Chain& chain) const;

  // In all chains together.
  PageCount size() const { return PageCount(links_.size() - free_.size()); }
  ByteCount metadata() const {
    return ByteCount::Bytes(links_.capacity() * sizeof(Link) + free_.capacity() * sizeof(uint32_t));
  }

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};
  static constexpr uint64_t kFree = ~uint64_t{0};  // no guest has a page with such a number

  struct Link {
    uint64_t sharer = kFree;  // guest << 48 | gfn
    uint32_t next = kNone;
    uint32_t previous = kNone;
  };

  static uint64_t Pack(Sharer sharer) { return static_cast<uint64_t>(sharer.guest) << 48 | sharer.gfn.value(); }
  static Sharer Unpack(uint64_t bits) {
    return {.guest = GuestId{static_cast<uint16_t>(bits >> 48)}, .gfn = Gfn(bits & ((uint64_t{1} << 48) - 1))};
  }

  std::vector<Link> links_;
  std::vector<uint32_t> free_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_MERGE_SHARER_CHAINS_H_
