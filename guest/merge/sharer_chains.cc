#include "guest/merge/sharer_chains.h"

#include "base/check.h"

namespace quire {

ShareLink SharerChains::Add(Chain& chain, Sharer sharer) {
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(links_.size()));
    links_.emplace_back();
  }
  const uint32_t number = free_.back();
  free_.pop_back();
  links_[number] = Link{.sharer = Pack(sharer), .next = chain.first_, .previous = kNone};
  if (chain.first_ != kNone) links_[chain.first_].previous = number;
  chain.first_ = number;
  return ShareLink(number);
}

void SharerChains::Remove(Chain& chain, ShareLink link) {
  const uint32_t number = static_cast<uint32_t>(link.value());
  const Link gone = links_[number];
  QUIRE_CHECK(gone.sharer != kFree);
  (gone.previous == kNone ? chain.first_ : links_[gone.previous].next) = gone.next;
  if (gone.next != kNone) links_[gone.next].previous = gone.previous;
  links_[number] = Link();
  free_.push_back(number);
}

bool SharerChains::Has(const Chain& chain, ShareLink link) const {
  bool found = false;
  ForEach(chain, [&](Sharer, ShareLink other) { found |= other == link; });
  return found;
}

std::optional<size_t> SharerChains::LengthOf(const Chain& chain) const {
  size_t length = 0;
  uint32_t previous = kNone;
  for (uint32_t at = chain.first_; at != kNone; previous = at, at = links_[at].next, ++length) {
    if (length > links_.size() || links_[at].previous != previous || links_[at].sharer == kFree) return std::nullopt;
  }
  return length;
}

}  // namespace quire
