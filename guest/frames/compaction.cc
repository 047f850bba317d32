#include "guest/frames/compaction.h"

#include <algorithm>
#include <array>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"

namespace quire {
namespace {

// Times that a range is gone through before a page in it counts as busy. Who holds a page's lock holds it for some
// microseconds, which is what a round takes.
constexpr int kRounds = 3;

constexpr FrameNumber AlignDown(FrameNumber frame, PageCount n) {
  return FrameNumber(frame.value() / n.in_pages() * n.in_pages());
}
constexpr FrameNumber AlignUp(FrameNumber frame, PageCount n) { return AlignDown(frame + (n - kOnePage), n); }

bool IsMovable(FrameDescriptor frame) {
  return frame.is(FrameKind::kOwned) || frame.is(FrameKind::kZone) || frame.is(FrameKind::kShared);
}

// Whatever is done, it stays where it is.
bool IsFixed(FrameDescriptor frame) { return frame.is(FrameKind::kWired) || frame.is(FrameKind::kPoisoned); }

// How many frames from this one on are not in use: a whole run, or one in a per-CPU list.
uint64_t UnusedFrom(FrameDescriptor frame) {
  if (frame.is(FrameKind::kFree)) return PageCount::OfOrder(frame.order()).in_pages();
  return frame.is(FrameKind::kCached) || frame.is(FrameKind::kIsolated) ? 1 : 0;
}

}  // namespace

// --- Where pages go.

class Compaction::Targets {
 public:
  virtual ~Targets() = default;
  virtual std::optional<FrameNumber> Take() = 0;
  // A frame that was taken and not used.
  virtual void PutBack(FrameNumber frame) = 0;
};

// Goes through the blocks from the last on, and takes what is free in them, up to the one that is being emptied.
class Compaction::FreeScanner final : public Targets {
 public:
  FreeScanner(Arena& arena, absl::Span<const BlockUse> blocks) : arena_(arena), blocks_(blocks), end_(blocks.size()) {}
  ~FreeScanner() override {
    for (const FrameNumber frame : in_hand_) arena_.FreeContiguous(FrameRange(frame, kOnePage));
  }

  // The migration scanner is at block `source`; false: the scanners have met.
  bool SetSource(size_t source) {
    source_ = source;
    return source_ + 1 < end_;
  }

  std::optional<FrameNumber> Take() override {
    while (in_hand_.empty()) {
      if (source_ + 1 >= end_) return std::nullopt;
      std::array<FrameNumber, kBatch> frames;
      const size_t found =
          arena_.TakeFreeFrames(FrameRange(blocks_[end_ - 1].begin, kOneBlock), absl::MakeSpan(frames));
      in_hand_.assign(frames.rend() - static_cast<ptrdiff_t>(found), frames.rend());
      if (found < frames.size()) --end_;
    }
    const FrameNumber frame = in_hand_.back();
    in_hand_.pop_back();
    return frame;
  }
  void PutBack(FrameNumber frame) override { in_hand_.push_back(frame); }

 private:
  Arena& arena_;
  const absl::Span<const BlockUse> blocks_;
  size_t source_ = 0;
  size_t end_;  // the blocks from here on have nothing free any more
  absl::InlinedVector<FrameNumber, 2 * kBatch> in_hand_;
};

// Any free frame, up to `most` of them; the range that is being emptied has none.
class Compaction::AnyFreeFrame final : public Targets {
 public:
  AnyFreeFrame(Arena& arena, Reserve reserve, PageCount most) : arena_(arena), reserve_(reserve), left_(most) {}

  std::optional<FrameNumber> Take() override {
    if (left_ == PageCount()) return std::nullopt;
    const absl::StatusOr<FrameNumber> frame = arena_.Allocate(0, reserve_);
    if (!frame.ok()) return std::nullopt;
    left_ -= kOnePage;
    return *frame;
  }
  void PutBack(FrameNumber frame) override {
    arena_.Free(frame, 0);
    left_ += kOnePage;
  }

 private:
  Arena& arena_;
  const Reserve reserve_;
  PageCount left_;
};

// --- Emptying a range.

bool Compaction::Evacuate(FrameRange range, const Means& means, FrameNumber& stuck) {
  for (int round = 0; round < kRounds; ++round) {
    const Sweep sweep = SweepOnce(range, means, stuck);
    if (sweep != Sweep::kBusy) return sweep == Sweep::kEmpty;
    std::this_thread::yield();
  }
  counters_.refused_busy.Add();
  return false;
}

Compaction::Sweep Compaction::SweepOnce(FrameRange range, const Means& means, FrameNumber& stuck) {
  Sweep result = Sweep::kEmpty;
  Batch batch;
  for (FrameNumber frame = range.begin(); frame < range.end() && result != Sweep::kFailed; ++frame) {
    const FrameDescriptor descriptor = arena_.frames().Get(frame);
    if (descriptor.is(FrameKind::kIsolated) || descriptor.is(FrameKind::kAbsent)) continue;
    if (!arena_.IsIsolating()) {
      counters_.refused_wanted.Add();
      result = Sweep::kFailed;
      break;
    }
    const Sweep page = SweepPage(frame, descriptor, means, batch);
    if (page != Sweep::kEmpty) stuck = frame;
    result = std::max(result, page);
    if (batch.size() == kBatch) result = std::max(result, MakeMoves(batch, means, stuck));
  }
  return std::max(result, MakeMoves(batch, means, stuck));
}

Compaction::Sweep Compaction::SweepPage(FrameNumber frame, FrameDescriptor owner, const Means& means, Batch& batch) {
  if (IsFixed(owner)) {
    counters_.refused_cannot.Add();
    return Sweep::kFailed;
  }
  // Just allocated, or about to be freed.
  if (!IsMovable(owner)) return Sweep::kBusy;
  if (const std::optional<FrameNumber> target = means.targets.Take()) {
    batch.push_back({.from = frame, .owner = owner, .to = *target});
    return Sweep::kEmpty;
  }
  if (!means.evict) {
    counters_.refused_no_room.Add();
    return Sweep::kFailed;
  }
  const Sweep evicted = SweepOf(migrator_.Evict(frame, owner));
  if (evicted == Sweep::kEmpty) counters_.evicted_pages.Add();
  if (evicted == Sweep::kFailed) counters_.refused_cannot.Add();
  return evicted;
}

Compaction::Sweep Compaction::MakeMoves(Batch& batch, const Means& means, FrameNumber& stuck) {
  std::sort(batch.begin(), batch.end(), [](const auto& a, const auto& b) { return a.owner.bits() < b.owner.bits(); });
  migrator_.Migrate(absl::MakeSpan(batch), means.whole);
  Sweep result = Sweep::kEmpty;
  for (const FrameMigrator::Move& move : batch) {
    const Sweep moved = SweepOf(move.answer);
    if (moved == Sweep::kEmpty) {
      counters_.migrated_pages.Add();
      continue;
    }
    means.targets.PutBack(move.to);
    if (moved > result) stuck = move.from;
    result = std::max(result, moved);
  }
  if (result == Sweep::kFailed) counters_.refused_cannot.Add();
  batch.clear();
  return result;
}

Compaction::Sweep Compaction::SweepOf(FrameMigrator::Answer answer) {
  switch (answer) {
    case FrameMigrator::Answer::kMoved:
      return Sweep::kEmpty;
    case FrameMigrator::Answer::kBusy:
      return Sweep::kBusy;
    case FrameMigrator::Answer::kCannot:
      break;
  }
  return Sweep::kFailed;
}

// --- Whole blocks.

uint64_t Compaction::MakeFreeBlocks(uint64_t wanted) {
  absl::MutexLock lock(&lock_);
  arena_.DrainCpuLists();
  const std::vector<BlockUse> blocks = Survey();
  uint64_t room = 0;  // free frames, by the survey, in blocks that are not to be emptied
  for (const BlockUse& block : blocks) room += kPagesPerBlock - block.used;
  FreeScanner targets(arena_, blocks);
  uint64_t gained = 0;
  uint64_t failures = 0;
  for (size_t source = 0; source < blocks.size() && gained < wanted && failures < kFailures; ++source) {
    // A block that is emptied in part only has cost its moves for nothing.
    room -= kPagesPerBlock - blocks[source].used;
    if (!blocks[source].movable || !targets.SetSource(source) || room < blocks[source].used) break;
    room -= blocks[source].used;
    const FrameRange block(blocks[source].begin, kOneBlock);
    FrameNumber stuck;
    arena_.Isolate(block);
    Evacuate(block, {.targets = targets, .whole = FrameMigrator::WholeBlocks::kKeep, .evict = false}, stuck);
    const bool wanted_by_others = !arena_.IsIsolating();
    const bool emptied = arena_.EndIsolation();
    ++(emptied ? gained : failures);
    if (wanted_by_others) break;
  }
  counters_.blocks.Add(gained);
  return gained;
}

// The blocks that are partly used, in the order of the picture in the header.
std::vector<Compaction::BlockUse> Compaction::Survey() const {
  std::vector<BlockUse> blocks;
  const FrameRange live = arena_.ever_live();
  for (FrameNumber head = live.begin(); head < live.end(); head = head + kOneBlock) {
    if (arena_.frames().Get(head).is(FrameKind::kAbsent)) continue;
    const BlockUse use = LookAt(head);
    if (use.used > 0 && use.used < kPagesPerBlock) blocks.push_back(use);
  }
  std::sort(blocks.begin(), blocks.end(), [](const BlockUse& a, const BlockUse& b) {
    if (a.movable != b.movable) return a.movable;
    if (a.used != b.used) return a.used < b.used;
    return b.begin < a.begin;
  });
  return blocks;
}

Compaction::BlockUse Compaction::LookAt(FrameNumber head) const {
  BlockUse use{.begin = head};
  for (uint64_t i = 0; i < kPagesPerBlock;) {
    const FrameDescriptor descriptor = arena_.frames().Get(head + PageCount(i));
    const uint64_t unused = UnusedFrom(descriptor);
    if (unused == 0) ++use.used;
    if (IsFixed(descriptor)) use.movable = false;
    i += std::max<uint64_t>(unused, 1);
  }
  return use;
}

// --- Contiguous ranges.

// What each frame would cost, and where a request costs least.
class Compaction::Places {
 public:
  Places(Arena& arena, FrameRange within, AbsentBlocks absent);

  // Nullopt: each place has a frame that cannot be moved. Of places alike the lowest.
  std::optional<FrameRange> Cheapest(const ContiguousRequest& request) const;
  void Exclude(FrameNumber frame) { costs_[(frame - range_.begin()).in_pages()] = kImpossible; }

 private:
  static constexpr uint8_t kNothing = 0;
  static constexpr uint8_t kOneMove = 1;
  static constexpr uint8_t kImpossible = 2;

  static uint8_t CostOf(FrameDescriptor frame, AbsentBlocks absent) {
    if (IsMovable(frame)) return kOneMove;
    if (frame.is(FrameKind::kAbsent)) return absent == AbsentBlocks::kCountAsFree ? kNothing : kImpossible;
    return UnusedFrom(frame) > 0 ? kNothing : kImpossible;
  }
  // Adds the frames [from, to) to a window's sums.
  using Sums = std::array<uint64_t, 3>;
  void Count(FrameNumber from, FrameNumber to, Sums& sums) const {
    for (; from < to; ++from) ++sums[costs_[(from - range_.begin()).in_pages()]];
  }
  void Uncount(FrameNumber from, FrameNumber to, Sums& sums) const {
    for (; from < to; ++from) --sums[costs_[(from - range_.begin()).in_pages()]];
  }

  FrameRange range_;
  std::vector<uint8_t> costs_;
};

Compaction::Places::Places(Arena& arena, FrameRange within, AbsentBlocks absent)
    : range_(within), costs_(within.size().in_pages(), kImpossible) {
  // From the head of a block on, so that every free run is met at its head.
  for (FrameNumber at = AlignDown(within.begin(), kOneBlock); at < within.end();) {
    const FrameDescriptor descriptor = arena.frames().Get(at);
    const PageCount length(std::max<uint64_t>(UnusedFrom(descriptor), 1));
    const FrameRange alike = FrameRange(at, length).Intersect(within);
    for (FrameNumber f = alike.begin(); f < alike.end(); ++f) {
      costs_[(f - within.begin()).in_pages()] = CostOf(descriptor, absent);
    }
    at = at + length;
  }
}

std::optional<FrameRange> Compaction::Places::Cheapest(const ContiguousRequest& request) const {
  std::optional<FrameRange> best;
  uint64_t best_moves = 0;
  Sums sums = {};
  FrameRange window(range_.begin(), range_.begin());
  for (FrameNumber at = AlignUp(range_.begin(), request.alignment); at + request.count <= range_.end();
       at = at + request.alignment) {
    const FrameRange next(at, request.count);
    Uncount(window.begin(), std::min(next.begin(), window.end()), sums);
    Count(std::max(window.end(), next.begin()), next.end(), sums);
    window = next;
    const bool crosses = request.boundary != PageCount() && AlignDown(next.begin(), request.boundary) !=
                                                                AlignDown(next.end() - kOnePage, request.boundary);
    if (crosses || sums[kImpossible] > 0 || (best.has_value() && sums[kOneMove] >= best_moves)) continue;
    best = next;
    best_moves = sums[kOneMove];
  }
  return best;
}

absl::StatusOr<FrameRange> Compaction::AllocateContiguous(const ContiguousRequest& request, Reserve reserve) {
  if (absl::Status status = request.Validate(); !status.ok()) return status;
  absl::MutexLock lock(&lock_);
  arena_.DrainCpuLists();
  // Live blocks first: they are paid for.
  absl::StatusOr<FrameRange> range = EmptyCheapest(request, reserve, AbsentBlocks::kSkip);
  if (!range.ok()) range = EmptyCheapest(request, reserve, AbsentBlocks::kCountAsFree);
  if (range.ok()) counters_.ranges.Add();
  return range;
}

// All pages of a place that is isolated, if the free frames outside suffice for them. Otherwise the more are evicted
// the fewer frames there are, so that what they are compressed to fits as well, at half of their size or less.
PageCount Compaction::ToMigrate(FrameRange place) const {
  PageCount pages, aside;
  for (FrameNumber frame = place.begin(); frame < place.end(); ++frame) {
    const FrameDescriptor descriptor = arena_.frames().Get(frame);
    if (IsMovable(descriptor)) pages += kOnePage;
    if (descriptor.is(FrameKind::kIsolated)) aside += kOnePage;
  }
  const PageCount free = arena_.counts().free;
  const PageCount outside = free > aside ? free - aside : PageCount();
  if (pages <= outside) return pages;
  return outside * 2 > pages ? outside * 2 - pages : PageCount();
}

absl::StatusOr<FrameRange> Compaction::EmptyCheapest(const ContiguousRequest& request, Reserve reserve,
                                                     AbsentBlocks absent) {
  absl::Status status = absl::UnavailableError(absl::StrCat("allocating ", request.count.in_pages(),
                                                            " adjacent frames: every place for them has a frame in it ",
                                                            "that cannot be moved"));
  const FrameRange arena = absent == AbsentBlocks::kSkip ? arena_.ever_live() : arena_.range();
  const FrameRange within = request.within.Intersect(arena);
  if (within.size() < request.count) return status;
  Places places(arena_, within, absent);
  for (uint64_t failures = 0; failures < kFailures; ++failures) {
    const std::optional<FrameRange> place = places.Cheapest(request);
    if (!place.has_value()) return status;
    FrameNumber stuck = place->begin();
    arena_.Isolate(*place);
    AnyFreeFrame targets(arena_, reserve, ToMigrate(*place));
    Evacuate(*place, {.targets = targets, .whole = FrameMigrator::WholeBlocks::kTakeApart, .evict = true}, stuck);
    const bool wanted_by_others = !arena_.IsIsolating();
    absl::StatusOr<FrameRange> taken = arena_.TakeIsolated(reserve);
    if (taken.ok() || wanted_by_others) return taken;
    status = taken.status();
    places.Exclude(stuck);
  }
  return status;
}

}  // namespace quire
