#include "guest/frames/arena.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire {
namespace {

FrameNumber HeadOfBlock(FrameNumber frame) { return FrameNumber(frame.value() & ~(kPagesPerBlock - 1)); }

absl::Status NoMemory(absl::string_view what, FrameRange arena) {
  return absl::UnavailableError(
      absl::StrCat(what, ": no room in the arena of ", arena.size().in_pages(),
                   " frames, and no absent block to grow into; free memory or raise the pool's limit"));
}

absl::Status Annotate(const absl::Status& status, absl::string_view what) {
  return absl::Status(status.code(), absl::StrCat(what, ": ", status.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Arena>> Arena::Create(PageCount size, BlockSource* source, ArenaOptions options) {
  absl::StatusOr<FrameTable> frames = FrameTable::Create(size);
  if (!frames.ok()) return frames.status();
  if (options.cpu_lists == 0) options.cpu_lists = std::max(sysconf(_SC_NPROCESSORS_CONF), 1L);
  return std::unique_ptr<Arena>(new Arena(*std::move(frames), source, options));
}

Arena::Arena(FrameTable frames, BlockSource* source, const ArenaOptions& options)
    : frames_(std::move(frames)),
      source_(*source),
      options_(options),
      lists_(new CpuList[options.cpu_lists]),
      buddy_(&frames_) {}

Arena::~Arena() {
  SpillAllLists();
  PageCount poisoned;  // which nobody gives back
  for (FrameNumber frame; frame < ever_live().end(); ++frame) {
    if (frames_.Get(frame).is(FrameKind::kPoisoned)) poisoned += kOnePage;
  }
  QUIRE_CHECK(counts().free + poisoned == counts().live);
}

absl::StatusOr<FrameNumber> Arena::Allocate(int order, Reserve reserve) {
  const std::optional<FrameNumber> frame = order == 0 ? AllocateFromCpuList() : AllocateFromBuddy(order);
  if (frame.has_value()) return *frame;
  return AllocateByGrowing(order, reserve);
}

Arena::CpuList& Arena::LocalList() {
  // A thread may be moved to another CPU right after this: the list has a lock, so that costs time and no more.
  return lists_[static_cast<unsigned>(options_.current_cpu()) % options_.cpu_lists];
}

std::optional<FrameNumber> Arena::AllocateFromCpuList() {
  CpuList& list = LocalList();
  absl::MutexLock lock(&list.mutex);
  if (list.size == 0) Refill(list);
  if (list.size == 0) return std::nullopt;
  const FrameNumber frame = list.frames[--list.size];
  frames_.Set(frame, FrameDescriptor::Busy());
  return frame;
}

std::optional<FrameNumber> Arena::AllocateFromBuddy(int order) {
  absl::MutexLock lock(&mutex_);
  const std::optional<FrameNumber> frame = buddy_.Allocate(order);
  PublishLocked();
  return frame;
}

absl::StatusOr<FrameNumber> Arena::AllocateByGrowing(int order, Reserve reserve) {
  absl::MutexLock growing(&growth_mutex_);
  // Another thread may have grown the arena while this one waited for the lock.
  if (const auto frame = AllocateFromBuddy(order); frame.has_value()) return *frame;

  const std::string what = absl::StrCat("allocating a run of order ", order);
  absl::Status grown = NoMemory(what, range());
  if (const auto block = LowestAbsentBlock(); block.has_value()) {
    grown = Annotate(source_.AcquireBlock(*block, reserve), what);
    if (grown.ok()) {
      // Under one lock, or others could take the whole block before this thread has its share.
      absl::MutexLock lock(&mutex_);
      buddy_.AddBlock(*block);
      const std::optional<FrameNumber> frame = buddy_.Allocate(order);
      PublishLocked();
      return *frame;
    }
  }
  SpillAllLists();
  if (const auto frame = AllocateFromBuddy(order); frame.has_value()) return *frame;
  // Whoever empties a range wants a whole block. That is worth less than what is missing here.
  if (order < kBlockOrder && AbandonIsolation()) {
    if (const auto frame = AllocateFromBuddy(order); frame.has_value()) return *frame;
  }
  return grown;
}

// Blocks change between absent and live under growth_mutex_ only, so an absent one stays absent until it is released.
std::optional<FrameRange> Arena::LowestAbsentBlock() {
  while (lowest_absent_ < range().end() && !IsAbsent(lowest_absent_)) {
    lowest_absent_ = lowest_absent_ + kOneBlock;
  }
  if (lowest_absent_ == range().end()) return std::nullopt;
  return FrameRange(lowest_absent_, kOneBlock);
}

void Arena::Free(FrameNumber frame, int order) {
  if (order == 0) {
    FreeToCpuList(frame);
    return;
  }
  bool surplus;
  {
    absl::MutexLock lock(&mutex_);
    FreeLocked(FrameRange(frame, PageCount::OfOrder(order)));
    surplus = PublishLocked();
  }
  if (surplus) ReturnSurplusBlocks();
}

void Arena::FreeToCpuList(FrameNumber frame) {
  bool surplus = false;
  {
    CpuList& list = LocalList();
    absl::MutexLock lock(&list.mutex);
    // Freed twice, it would be free or cached by now. One that is inside a free run is found when it is spilled.
    QUIRE_CHECK(frames_.Get(frame).may_be_allocated());
    if (IsIsolated(frame)) {
      absl::MutexLock buddy_lock(&mutex_);
      FreeLocked(FrameRange(frame, kOnePage));
      PublishLocked();
      return;
    }
    if (list.size == kCpuListCapacity) surplus = Spill(list, kCpuListBatch);
    frames_.Set(frame, FrameDescriptor::Cached());
    list.frames[list.size++] = frame;
  }
  if (surplus) ReturnSurplusBlocks();
}

void Arena::Refill(CpuList& list) {
  absl::MutexLock lock(&mutex_);
  while (list.size < kCpuListBatch) {
    const std::optional<FrameNumber> frame = buddy_.Allocate(0);
    if (!frame.has_value()) break;
    frames_.Set(*frame, FrameDescriptor::Cached());
    list.frames[list.size++] = *frame;
  }
  // The highest were pushed last; the lowest are to be used first.
  std::reverse(list.frames.begin(), list.frames.begin() + list.size);
  PublishLocked();
}

// Moves the `count` frames that were longest in the list to the buddy allocator. Returns whether there are more free
// blocks now than are to be kept.
bool Arena::Spill(CpuList& list, size_t count) {
  absl::MutexLock lock(&mutex_);
  const auto kept = list.frames.begin() + count;
  for (auto frame = list.frames.begin(); frame < kept; ++frame) {
    frames_.Set(*frame, FrameDescriptor::Busy());
    FreeLocked(FrameRange(*frame, kOnePage));
  }
  std::copy(kept, list.frames.begin() + list.size, list.frames.begin());
  list.size -= count;
  return PublishLocked();
}

bool Arena::SpillAllLists() {
  bool surplus = false;
  for (size_t i = 0; i < options_.cpu_lists; ++i) {
    absl::MutexLock lock(&lists_[i].mutex);
    surplus = Spill(lists_[i], lists_[i].size);
  }
  return surplus;
}

void Arena::DrainCpuLists() {
  if (SpillAllLists()) ReturnSurplusBlocks();
}

absl::StatusOr<FrameRange> Arena::AllocateContiguous(const ContiguousRequest& request, Reserve reserve) {
  if (absl::Status status = request.Validate(); !status.ok()) return status;
  SpillAllLists();
  absl::MutexLock growing(&growth_mutex_);
  std::optional<FrameRange> range;
  {
    absl::MutexLock lock(&mutex_);
    range = TakeContiguousLocked(request);
    PublishLocked();
  }
  const std::string what = absl::StrCat("allocating ", request.count.in_pages(), " adjacent frames");
  if (!range.has_value()) return NoMemory(what, this->range());
  if (absl::Status status = FinishContiguous(*range, reserve); !status.ok()) return Annotate(status, what);
  return *range;
}

// For a range of which the live parts are taken: the rest is acquired, or nothing is kept.
absl::Status Arena::FinishContiguous(FrameRange range, Reserve reserve) {
  absl::Status status = AcquireAbsentBlocks(range, reserve);
  if (status.ok()) return status;
  {
    absl::MutexLock lock(&mutex_);
    FreeLivePartsLocked(range);
    PublishLocked();
  }
  while (ReturnOneBlock(options_.free_block_limit)) {
  }
  return status;
}

// Takes what is live of the range found; the caller acquires the absent blocks in it, or frees the rest.
std::optional<FrameRange> Arena::TakeContiguousLocked(const ContiguousRequest& request) {
  std::optional<FrameRange> range = buddy_.AllocateContiguous(request);
  if (range.has_value()) return range;
  range = buddy_.FindContiguous(request, AbsentBlocks::kCountAsFree);
  if (!range.has_value()) return range;
  for (FrameNumber head = HeadOfBlock(range->begin()); head < range->end(); head = head + kOneBlock) {
    if (!IsAbsent(head)) buddy_.TakeFree(FrameRange(head, kOneBlock).Intersect(*range));
  }
  return range;
}

absl::Status Arena::AcquireAbsentBlocks(FrameRange range, Reserve reserve) {
  for (FrameNumber head = HeadOfBlock(range.begin()); head < range.end(); head = head + kOneBlock) {
    if (!IsAbsent(head)) continue;
    const FrameRange block(head, kOneBlock);
    if (absl::Status status = source_.AcquireBlock(block, reserve); !status.ok()) return status;
    absl::MutexLock lock(&mutex_);
    buddy_.AddBlock(block);
    buddy_.TakeFree(block.Intersect(range));
    PublishLocked();
  }
  return absl::OkStatus();
}

void Arena::FreeLivePartsLocked(FrameRange range) {
  for (FrameNumber head = HeadOfBlock(range.begin()); head < range.end(); head = head + kOneBlock) {
    if (!IsAbsent(head)) FreeLocked(FrameRange(head, kOneBlock).Intersect(range));
  }
}

void Arena::FreeContiguous(FrameRange range) {
  bool surplus;
  {
    absl::MutexLock lock(&mutex_);
    FreeLocked(range);
    surplus = PublishLocked();
  }
  if (surplus) ReturnSurplusBlocks();
}

// Frees allocated frames, or sets them aside, each where it lies.
void Arena::FreeLocked(FrameRange range) {
  const FrameRange aside = IsIsolating() ? range.Intersect(isolation()) : FrameRange();
  if (aside.empty()) {
    buddy_.FreeContiguous(range);
    return;
  }
  SetAsideLocked(aside);
  const FrameRange below(range.begin(), aside.begin()), above(aside.end(), range.end());
  if (!below.empty()) buddy_.FreeContiguous(below);
  if (!above.empty()) buddy_.FreeContiguous(above);
}

// --- Isolation.

FrameRange Arena::isolation() const {
  const uint64_t packed = isolation_.load(std::memory_order_relaxed);
  return FrameRange(FrameNumber(packed >> 32), PageCount(packed & UINT32_MAX));
}

void Arena::SetAsideLocked(FrameRange range) {
  for (FrameNumber frame = range.begin(); frame < range.end(); ++frame) {
    QUIRE_CHECK(frames_.Get(frame).may_be_allocated());
    frames_.Set(frame, FrameDescriptor::Isolated());
  }
  isolated_ += range.size();
}

void Arena::Isolate(FrameRange range) {
  {
    absl::MutexLock lock(&mutex_);
    QUIRE_CHECK(!IsIsolating() && !range.empty() && frames_.range().contains(range));
    isolation_.store(range.begin().value() << 32 | range.size().in_pages(), std::memory_order_relaxed);
    buddy_.TakeAllFree(range, [this](FrameRange taken) ABSL_NO_THREAD_SAFETY_ANALYSIS { SetAsideLocked(taken); });
    PublishLocked();
  }
  SpillAllLists();
}

bool Arena::EndIsolation() {
  bool empty, surplus;
  {
    absl::MutexLock lock(&mutex_);
    empty = IsIsolating() && IsEmptyLocked(isolation());
    surplus = ReleaseIsolatedLocked();
  }
  if (surplus) ReturnSurplusBlocks();
  return empty;
}

absl::StatusOr<FrameRange> Arena::TakeIsolated(Reserve reserve) {
  absl::MutexLock growing(&growth_mutex_);
  const FrameRange range = isolation();
  {
    absl::MutexLock lock(&mutex_);
    if (!IsIsolating() || !IsEmptyLocked(range)) {
      ReleaseIsolatedLocked();
      return absl::UnavailableError("the range that was being emptied was needed meanwhile, or not all of it could be");
    }
    for (FrameNumber frame = range.begin(); frame < range.end(); ++frame) {
      if (!IsAbsent(frame)) frames_.Set(frame, FrameDescriptor::Busy());
    }
    isolation_.store(0, std::memory_order_relaxed);
    isolated_ = PageCount();
    PublishLocked();
  }
  if (absl::Status status = FinishContiguous(range, reserve); !status.ok()) return status;
  return range;
}

// Whether all of it is set aside, or absent.
bool Arena::IsEmptyLocked(FrameRange range) const {
  for (FrameNumber frame = range.begin(); frame < range.end(); ++frame) {
    const FrameDescriptor descriptor = frames_.Get(frame);
    if (!descriptor.is(FrameKind::kIsolated) && !descriptor.is(FrameKind::kAbsent)) return false;
  }
  return true;
}

// Returns whether there are more free blocks now than are to be kept.
bool Arena::ReleaseIsolatedLocked() {
  const FrameRange range = isolation();
  isolation_.store(0, std::memory_order_relaxed);
  isolated_ = PageCount();
  for (FrameNumber frame = range.begin(); frame < range.end();) {
    FrameNumber end = frame;
    for (; end < range.end() && frames_.Get(end).is(FrameKind::kIsolated); ++end) {
      frames_.Set(end, FrameDescriptor::Busy());
    }
    if (end > frame) buddy_.FreeContiguous(FrameRange(frame, end));
    frame = end + kOnePage;
  }
  return PublishLocked();
}

bool Arena::AbandonIsolation() {
  absl::MutexLock lock(&mutex_);
  if (!IsIsolating()) return false;
  ReleaseIsolatedLocked();
  return true;
}

size_t Arena::TakeFreeFrames(FrameRange block, absl::Span<FrameNumber> frames) {
  absl::MutexLock lock(&mutex_);
  const size_t taken = buddy_.TakeSomeFree(block, frames);
  PublishLocked();
  return taken;
}

PageCount Arena::ReturnFreeBlocks(PageCount wanted) {
  SpillAllLists();
  PageCount returned;
  while (true) {
    // Let go in between, so that who needs a block waits for one call to the source and not for all of them.
    absl::MutexLock growing(&growth_mutex_);
    if (!ReturnOneBlock(/*keep=*/returned < wanted ? 0 : options_.free_block_limit)) return returned;
    returned += kOneBlock;
  }
}

void Arena::ReturnSurplusBlocks() {
  absl::MutexLock growing(&growth_mutex_);
  while (ReturnOneBlock(options_.free_block_limit)) {
  }
}

// Gives a block back to the source if more than `keep` blocks are wholly free.
bool Arena::ReturnOneBlock(uint64_t keep) {
  std::optional<FrameRange> block;
  {
    absl::MutexLock lock(&mutex_);
    if (buddy_.free_runs(kBlockOrder) > keep) block = buddy_.RemoveFreeBlock();
    PublishLocked();
  }
  if (!block.has_value()) return false;
  source_.ReturnBlock(*block);
  lowest_absent_ = std::min(lowest_absent_, block->begin());
  return true;
}

// Called with every change to the buddy allocator. Returns whether there are more free blocks than are to be kept.
bool Arena::PublishLocked() {
  live_and_free_.store(buddy_.live_pages().in_pages() << 32 | (buddy_.free_pages() + isolated_).in_pages(),
                       std::memory_order_relaxed);
  free_in_whole_blocks_.store(buddy_.pages_in_free_blocks().in_pages(), std::memory_order_relaxed);
  return buddy_.free_runs(kBlockOrder) > options_.free_block_limit;
}

ArenaCounts Arena::counts() const {
  const uint64_t live_and_free = live_and_free_.load(std::memory_order_relaxed);
  const PageCount whole(free_in_whole_blocks_.load(std::memory_order_relaxed));
  const PageCount free(live_and_free & UINT32_MAX);
  return {.live = PageCount(live_and_free >> 32), .free = free, .free_in_whole_blocks = std::min(whole, free)};
}

std::array<uint64_t, BuddyAllocator::kOrders> Arena::free_runs() const {
  std::array<uint64_t, BuddyAllocator::kOrders> runs;
  absl::MutexLock lock(&mutex_);
  for (int order = 0; order < BuddyAllocator::kOrders; ++order) runs[order] = buddy_.free_runs(order);
  return runs;
}

PageCount Arena::pages_in_cpu_lists() const {
  PageCount pages;
  for (size_t i = 0; i < options_.cpu_lists; ++i) {
    absl::MutexLock lock(&lists_[i].mutex);
    pages += PageCount(lists_[i].size);
  }
  return pages;
}

FrameRange Arena::ever_live() const {
  absl::MutexLock lock(&mutex_);
  return buddy_.ever_live();
}

ByteCount Arena::metadata_size() const {
  absl::MutexLock lock(&mutex_);
  return buddy_.metadata_size();
}

// Holds the locks of all lists, which the analysis cannot follow.
absl::Status Arena::Check() const ABSL_NO_THREAD_SAFETY_ANALYSIS {
  for (size_t i = 0; i < options_.cpu_lists; ++i) lists_[i].mutex.Lock();
  mutex_.Lock();
  absl::Status status = buddy_.Check();
  if (status.ok()) status = CheckListsLocked();
  if (status.ok()) status = CheckIsolatedLocked();
  if (status.ok()) status = CheckCountsLocked();
  mutex_.Unlock();
  for (size_t i = options_.cpu_lists; i > 0; --i) lists_[i - 1].mutex.Unlock();
  return status;
}

// Each frame in a list is marked so, and no other.
absl::Status Arena::CheckListsLocked() const ABSL_NO_THREAD_SAFETY_ANALYSIS {
  uint64_t listed = 0;
  for (size_t i = 0; i < options_.cpu_lists; ++i) {
    listed += lists_[i].size;
    for (size_t j = 0; j < lists_[i].size; ++j) {
      const FrameNumber frame = lists_[i].frames[j];
      if (frames_.Get(frame).is(FrameKind::kCached)) continue;
      return absl::InternalError(absl::StrCat("arena: frame ", frame.value(), ", in list ", i, ", is ",
                                              FrameKindName(frames_.Get(frame).kind())));
    }
  }
  uint64_t marked = 0;
  for (FrameNumber frame; frame < range().end(); frame = frame + (IsAbsent(frame) ? kOneBlock : kOnePage)) {
    if (frames_.Get(frame).is(FrameKind::kCached)) ++marked;
  }
  if (marked == listed) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("arena: ", marked, " frames are marked cached, but ", listed, " in a list"));
}

// Frames are set aside in the isolated range only, and as many as were counted.
absl::Status Arena::CheckIsolatedLocked() const {
  PageCount marked;
  for (FrameNumber frame; frame < range().end(); frame = frame + (IsAbsent(frame) ? kOneBlock : kOnePage)) {
    if (!frames_.Get(frame).is(FrameKind::kIsolated)) continue;
    if (!IsIsolated(frame)) return absl::InternalError(absl::StrCat("arena: frame ", frame.value(), " is set aside"));
    marked += kOnePage;
  }
  if (marked == isolated_) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("arena: ", marked.in_pages(), " frames are marked isolated, but ",
                                          isolated_.in_pages(), " were counted"));
}

absl::Status Arena::CheckCountsLocked() const {
  const ArenaCounts published = counts();
  if (published.live == buddy_.live_pages() && published.free == buddy_.free_pages() + isolated_ &&
      published.free_in_whole_blocks == buddy_.pages_in_free_blocks()) {
    return absl::OkStatus();
  }
  return absl::InternalError("arena: the published counts are not those of the buddy allocator");
}

}  // namespace quire
