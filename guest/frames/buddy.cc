#include "guest/frames/buddy.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"

namespace quire {
namespace {

constexpr FrameNumber kNone = FrameDescriptor::kNoFrame;

// To a multiple of `n`, a power of two.
constexpr FrameNumber AlignDown(FrameNumber frame, PageCount n) {
  return FrameNumber(frame.value() & ~(n.in_pages() - 1));
}
constexpr FrameNumber AlignUp(FrameNumber frame, PageCount n) { return AlignDown(frame + (n - kOnePage), n); }
constexpr bool IsAligned(FrameNumber frame, PageCount n) { return AlignDown(frame, n) == frame; }

// The run that, together with this one, is a run of the next order.
constexpr FrameNumber BuddyOf(FrameNumber frame, int order) {
  return FrameNumber(frame.value() ^ PageCount::OfOrder(order).in_pages());
}

// Cuts `range` into the fewest runs, lowest first.
template <class Visit>
void ForEachRun(FrameRange range, Visit visit) {
  for (FrameNumber frame = range.begin(); frame < range.end();) {
    const int alignment = frame.value() == 0 ? kBlockOrder : std::countr_zero(frame.value());
    const int size = std::bit_width((range.end() - frame).in_pages()) - 1;
    const int order = std::min({alignment, size, kBlockOrder});
    visit(frame, order);
    frame = frame + PageCount::OfOrder(order);
  }
}

// The lowest place for the request within frames that are all available. Boundary and alignment are powers of two, so
// whichever is larger is a multiple of the other.
std::optional<FrameRange> FirstFit(FrameRange available, const ContiguousRequest& request) {
  FrameRange fit(AlignUp(available.begin(), request.alignment), request.count);
  if (request.boundary != PageCount(0) &&
      AlignDown(fit.begin(), request.boundary) != AlignDown(fit.end() - kOnePage, request.boundary)) {
    fit = FrameRange(AlignUp(fit.begin(), request.boundary), request.count);
  }
  if (!available.contains(fit)) return std::nullopt;
  return fit;
}

absl::Status Broken(FrameNumber frame, absl::string_view what) {
  return absl::InternalError(absl::StrCat("buddy allocator: frame ", frame.value(), ": ", what));
}

}  // namespace

absl::Status ContiguousRequest::Validate() const {
  const auto invalid = [this](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("contiguous request of ", count.in_pages(), " frames: ", what));
  };
  if (count == PageCount(0)) return invalid("ask for at least one");
  if (count > FrameTable::kMaxSize) return invalid("more than an arena can hold");
  if (!std::has_single_bit(alignment.in_pages())) return invalid("the alignment must be a power of two");
  if (boundary == PageCount(0)) return absl::OkStatus();
  if (!std::has_single_bit(boundary.in_pages())) return invalid("the boundary must be 0 or a power of two");
  if (count > boundary) return invalid("they cannot but cross a boundary of fewer frames");
  return absl::OkStatus();
}

// What follows kNone is the first of the list.
inline void BuddyAllocator::SetNext(FreeList& list, FrameNumber frame, FrameNumber next) {
  if (frame == kNone) {
    list.first = next;
  } else {
    const FrameDescriptor descriptor = Get(frame);
    Set(frame, FrameDescriptor::Free(descriptor.order(), descriptor.previous(), next));
  }
}

// What precedes kNone is the last of the list.
inline void BuddyAllocator::SetPrevious(FreeList& list, FrameNumber frame, FrameNumber previous) {
  if (frame == kNone) {
    list.last = previous;
  } else {
    const FrameDescriptor descriptor = Get(frame);
    Set(frame, FrameDescriptor::Free(descriptor.order(), previous, descriptor.next()));
  }
}

// Lower than the first of its list: to the front; else to the back.
inline void BuddyAllocator::Link(FrameNumber frame, int order) {
  FreeList& list = lists_[order];
  ++list.runs;
  if (frame < list.first) {  // so too in an empty list: kNone is higher than any frame
    Set(frame, FrameDescriptor::Free(order, kNone, list.first));
    SetPrevious(list, list.first, frame);
    list.first = frame;
  } else {
    Set(frame, FrameDescriptor::Free(order, list.last, kNone));
    SetNext(list, list.last, frame);
    list.last = frame;
  }
}

// Leaves the descriptor of `frame` to the caller.
inline void BuddyAllocator::Unlink(FrameNumber frame) {
  const FrameDescriptor descriptor = Get(frame);
  FreeList& list = lists_[descriptor.order()];
  --list.runs;
  SetNext(list, descriptor.previous(), descriptor.next());
  SetPrevious(list, descriptor.next(), descriptor.previous());
}

void BuddyAllocator::AddBlock(FrameRange block) {
  QUIRE_CHECK(IsAligned(block.begin(), kOneBlock) && block.size() == kOneBlock);
  QUIRE_CHECK(Get(block.begin()).is(FrameKind::kAbsent));
  frames_.Fill(block, FrameDescriptor::Busy());
  Link(block.begin(), kBlockOrder);
  live_ += kOneBlock;
  free_ += kOneBlock;
  end_ = std::max(end_, block.end());
}

std::optional<FrameRange> BuddyAllocator::RemoveFreeBlock() {
  const FrameNumber frame = lists_[kBlockOrder].last;
  if (frame == kNone) return std::nullopt;
  Unlink(frame);
  const FrameRange block(frame, kOneBlock);
  frames_.Fill(block, FrameDescriptor::Absent());
  live_ -= kOneBlock;
  free_ -= kOneBlock;
  return block;
}

std::optional<FrameNumber> BuddyAllocator::Allocate(int order) {
  QUIRE_CHECK(order >= 0 && order < kOrders);
  int found = order;
  while (found < kOrders && lists_[found].runs == 0) ++found;
  if (found == kOrders) return std::nullopt;
  const FrameNumber frame = lists_[found].first;
  Unlink(frame);
  while (found > order) {
    --found;
    Link(BuddyOf(frame, found), found);
  }
  Set(frame, FrameDescriptor::Busy());
  free_ -= PageCount::OfOrder(order);
  return frame;
}

void BuddyAllocator::Free(FrameNumber frame, int order) {
  QUIRE_CHECK(order >= 0 && order < kOrders);
  const FrameRange run(frame, PageCount::OfOrder(order));
  QUIRE_CHECK(IsAligned(frame, run.size()) && frames_.range().contains(run));
  QUIRE_CHECK(!IsInsideFreeRun(frame));
  MakeBusy(run);
  free_ += PageCount::OfOrder(order);
  for (; order < kBlockOrder && IsFreeRun(BuddyOf(frame, order), order); ++order) {
    const FrameNumber buddy = BuddyOf(frame, order);
    Unlink(buddy);
    Set(buddy, FrameDescriptor::Busy());
    frame = std::min(frame, buddy);
  }
  Link(frame, order);
}

std::optional<FrameRange> BuddyAllocator::AllocateContiguous(const ContiguousRequest& request) {
  const std::optional<FrameRange> found = FindContiguous(request, AbsentBlocks::kSkip);
  if (found.has_value()) TakeFree(*found);
  return found;
}

void BuddyAllocator::FreeContiguous(FrameRange range) {
  ForEachRun(range, [this](FrameNumber frame, int order) { Free(frame, order); });
}

std::optional<FrameRange> BuddyAllocator::FindContiguous(const ContiguousRequest& request, AbsentBlocks absent) const {
  // Blocks that were never live are not worth a look, unless they count.
  const FrameNumber end = absent == AbsentBlocks::kSkip ? end_ : frames_.range().end();
  const FrameRange within = request.within.Intersect(FrameRange(FrameNumber(0), end));
  // The walk starts at the head of a block, so that it meets every free run at its head.
  FrameNumber at = AlignDown(within.begin(), kOneBlock);
  FrameNumber stretch = at;  // the frames [stretch, at) are available
  while (at < within.end()) {
    const PageCount available = AvailableAt(at, absent);
    if (available == PageCount(0)) {
      at = at + (Get(at).is(FrameKind::kAbsent) ? kOneBlock : kOnePage);
      stretch = at;
      continue;
    }
    at = at + available;
    const auto fit = FirstFit(FrameRange(stretch, at).Intersect(within), request);
    if (fit.has_value()) return fit;
  }
  return std::nullopt;
}

// How many frames from `frame`, the head of an absent block or of a free run or an allocated frame, are available.
PageCount BuddyAllocator::AvailableAt(FrameNumber frame, AbsentBlocks absent) const {
  const FrameDescriptor descriptor = Get(frame);
  if (descriptor.is(FrameKind::kFree)) return PageCount::OfOrder(descriptor.order());
  if (absent == AbsentBlocks::kSkip || !descriptor.is(FrameKind::kAbsent)) return PageCount(0);
  return frame < end_ ? kOneBlock : frames_.range().end() - frame;
}

void BuddyAllocator::TakeFree(FrameRange range) {
  QUIRE_CHECK(frames_.range().contains(range));
  for (FrameNumber at = range.begin(); at < range.end();) {
    const std::optional<FrameRange> run = FreeRunCovering(at);
    QUIRE_CHECK(run.has_value());
    Unlink(run->begin());
    Set(run->begin(), FrameDescriptor::Busy());
    LinkPieces(FrameRange(run->begin(), at));
    LinkPieces(FrameRange(std::min(range.end(), run->end()), run->end()));
    at = run->end();
  }
  free_ -= range.size();
}

void BuddyAllocator::TakeAllFree(FrameRange range, absl::FunctionRef<void(FrameRange)> taken) {
  // From the head of a block on, so that every free run is met at its head.
  for (FrameNumber at = AlignDown(range.begin(), kOneBlock); at < range.end();) {
    const PageCount available = AvailableAt(at, AbsentBlocks::kSkip);
    const FrameRange piece = FrameRange(at, available).Intersect(range);
    if (!piece.empty()) {
      TakeFree(piece);
      taken(piece);
    }
    at = at + std::max(available, kOnePage);
  }
}

size_t BuddyAllocator::TakeSomeFree(FrameRange block, absl::Span<FrameNumber> frames) {
  size_t count = 0;
  for (FrameNumber at = block.begin(); at < block.end() && count < frames.size();) {
    const PageCount available = AvailableAt(at, AbsentBlocks::kSkip);
    const PageCount wanted = std::min(available, PageCount(frames.size() - count));
    if (wanted > PageCount()) TakeFree(FrameRange(at, wanted));
    for (uint64_t i = 0; i < wanted.in_pages(); ++i) frames[count++] = at + PageCount(i);
    at = at + std::max(available, kOnePage);
  }
  return count;
}

// For what remains of a run of which a part was taken: no piece can be merged, its buddy is or holds that part.
void BuddyAllocator::LinkPieces(FrameRange range) {
  ForEachRun(range, [this](FrameNumber frame, int order) { Link(frame, order); });
}

bool BuddyAllocator::IsFreeRun(FrameNumber frame, int order) const {
  const FrameDescriptor descriptor = Get(frame);
  return descriptor.is(FrameKind::kFree) && descriptor.order() == order;
}

// The head of a free run that covers `frame` is `frame` rounded down to some order that is at most the run's.
std::optional<FrameRange> BuddyAllocator::FreeRunCovering(FrameNumber frame) const {
  for (int order = 0; order < kOrders; ++order) {
    const FrameNumber head = AlignDown(frame, PageCount::OfOrder(order));
    const FrameDescriptor descriptor = Get(head);
    if (!descriptor.is(FrameKind::kFree)) continue;
    const FrameRange run(head, PageCount::OfOrder(descriptor.order()));
    if (run.contains(frame)) return run;
    return std::nullopt;
  }
  return std::nullopt;
}

// Makes each frame of a run that is being freed busy, whatever its owner had made of it.
void BuddyAllocator::MakeBusy(FrameRange run) {
  for (FrameNumber frame = run.begin(); frame < run.end(); ++frame) {
    const FrameDescriptor descriptor = Get(frame);
    QUIRE_CHECK(descriptor.may_be_allocated());
    if (!descriptor.is(FrameKind::kBusy)) Set(frame, FrameDescriptor::Busy());
  }
}

absl::Status BuddyAllocator::Check() const {
  for (int order = 0; order < kOrders; ++order) {
    if (absl::Status status = CheckList(order); !status.ok()) return status;
  }
  Tally tally;
  for (FrameNumber head; head < end_; head = head + kOneBlock) {
    if (absl::Status status = CheckBlock(FrameRange(head, kOneBlock), tally); !status.ok()) return status;
  }
  for (int order = 0; order < kOrders; ++order) {
    // Each run of the list was found in the blocks, so a difference is a run that is in no list.
    if (tally.runs[order] != lists_[order].runs) {
      return absl::InternalError(absl::StrCat("buddy allocator: ", tally.runs[order], " free runs of order ", order,
                                              ", but ", lists_[order].runs, " in the list"));
    }
  }
  if (tally.live != live_ || tally.free != free_) {
    return absl::InternalError(absl::StrCat("buddy allocator: ", tally.live.in_pages(), " frames live and ",
                                            tally.free.in_pages(), " free, but counted ", live_.in_pages(), " and ",
                                            free_.in_pages()));
  }
  return absl::OkStatus();
}

absl::Status BuddyAllocator::CheckList(int order) const {
  const FreeList& list = lists_[order];
  FrameNumber previous = kNone;
  FrameNumber frame = list.first;
  for (uint64_t i = 0; i < list.runs; ++i) {
    if (!frames_.range().contains(frame)) return Broken(frame, absl::StrCat("in list ", order, ", beyond the arena"));
    const FrameDescriptor descriptor = Get(frame);
    if (!IsFreeRun(frame, order)) return Broken(frame, absl::StrCat("in list ", order, ", not free of that order"));
    if (descriptor.previous() != previous) return Broken(frame, "its link to the run before it is wrong");
    previous = frame;
    frame = descriptor.next();
  }
  if (frame != kNone) return Broken(frame, absl::StrCat("in list ", order, " beyond its count of ", list.runs));
  if (list.last != previous) return Broken(list.last, absl::StrCat("not the last of list ", order));
  return absl::OkStatus();
}

absl::Status BuddyAllocator::CheckBlock(FrameRange block, Tally& tally) const {
  if (Get(block.begin()).is(FrameKind::kAbsent)) return CheckAll(block, FrameKind::kAbsent);
  tally.live += kOneBlock;
  for (FrameNumber at = block.begin(); at < block.end();) {
    const FrameDescriptor descriptor = Get(at);
    if (descriptor.is(FrameKind::kAbsent)) return Broken(at, "absent in a live block");
    if (descriptor.kind() > FrameKind::kPoisoned) return Broken(at, "of no known kind");
    if (!descriptor.is(FrameKind::kFree)) {
      ++at;
      continue;
    }
    if (absl::Status status = CheckFreeRun(at, descriptor.order()); !status.ok()) return status;
    ++tally.runs[descriptor.order()];
    tally.free += PageCount::OfOrder(descriptor.order());
    at = at + PageCount::OfOrder(descriptor.order());
  }
  return absl::OkStatus();
}

absl::Status BuddyAllocator::CheckFreeRun(FrameNumber frame, int order) const {
  if (order >= kOrders) return Broken(frame, absl::StrCat("free of order ", order, ": there is none"));
  if (!IsAligned(frame, PageCount::OfOrder(order))) return Broken(frame, absl::StrCat("not aligned to order ", order));
  if (order < kBlockOrder && IsFreeRun(BuddyOf(frame, order), order)) {
    return Broken(frame, absl::StrCat("free of order ", order, " like its buddy, but not merged with it"));
  }
  return CheckAll(FrameRange(frame + kOnePage, frame + PageCount::OfOrder(order)), FrameKind::kBusy);
}

absl::Status BuddyAllocator::CheckAll(FrameRange range, FrameKind kind) const {
  for (FrameNumber frame = range.begin(); frame < range.end(); ++frame) {
    const FrameDescriptor descriptor = Get(frame);
    if (!descriptor.is(kind))
      return Broken(frame, absl::StrCat(FrameKindName(descriptor.kind()), " inside a run or block of ",
                                        FrameKindName(kind), " frames"));
  }
  return absl::OkStatus();
}

}  // namespace quire
