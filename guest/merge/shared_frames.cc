#include "guest/merge/shared_frames.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire {

SharedFrames::~SharedFrames() { QUIRE_CHECK(frames() == PageCount()); }

// --- Pages come and go.

ShareLink SharedFrames::Publish(FrameNumber frame, uint64_t hash, Sharer first) {
  absl::MutexLock lock(&lock_);
  return JoinLocked(PublishLocked(frame, hash), first);
}

SharedFrames::Hold SharedFrames::PublishEmpty(FrameNumber frame, uint64_t hash) {
  absl::MutexLock lock(&lock_);
  return HoldLocked(PublishLocked(frame, hash));
}

SharedFrames::Record& SharedFrames::PublishLocked(FrameNumber frame, uint64_t hash) {
  if (free_records_.empty()) {
    free_records_.push_back(static_cast<uint32_t>(records_.size()));
    records_.emplace_back();
  }
  const uint32_t number = free_records_.back();
  free_records_.pop_back();
  Record& record = records_[number];
  record = Record{.hash = hash, .frame = frame, .used = true};
  pool_.arena().frames().Set(frame, FrameDescriptor::Shared(number));
  by_hash_[hash] = number;
  return record;
}

uint32_t SharedFrames::OfferedLocked(uint64_t hash) const {
  const auto known = by_hash_.find(hash);
  return known == by_hash_.end() || records_[known->second].count >= max_sharing_ ? kNone : known->second;
}

std::optional<SharedFrames::Hold> SharedFrames::Find(uint64_t hash) {
  absl::MutexLock lock(&lock_);
  const uint32_t number = OfferedLocked(hash);
  if (number == kNone) return std::nullopt;
  return HoldLocked(records_[number]);
}

std::vector<std::optional<SharedFrames::Hold>> SharedFrames::FindAll(absl::Span<const uint64_t> hashes) {
  std::vector<std::optional<Hold>> found(hashes.size());
  absl::MutexLock lock(&lock_);
  for (size_t i = 0; i < hashes.size(); ++i) {
    const uint32_t number = hashes[i] == 0 ? kNone : OfferedLocked(hashes[i]);
    if (number != kNone) found[i].emplace(HoldLocked(records_[number]));
  }
  return found;
}

std::optional<SharedFrames::Hold> SharedFrames::HoldFrame(FrameNumber frame) {
  absl::MutexLock lock(&lock_);
  const FrameDescriptor descriptor = pool_.arena().frames().Get(frame);
  if (!descriptor.is(FrameKind::kShared)) return std::nullopt;
  return HoldLocked(RecordOf(frame));
}

SharedFrames::Hold SharedFrames::HoldLocked(Record& record) {
  ++record.holds;
  return Hold(this, record.frame);
}

void SharedFrames::Unhold(FrameNumber frame) {
  std::optional<FrameNumber> unused;
  {
    absl::MutexLock lock(&lock_);
    unused = UnholdLocked(frame);
  }
  Free(unused);
}

std::optional<FrameNumber> SharedFrames::UnholdLocked(FrameNumber frame) {
  Record& record = RecordOf(frame);
  QUIRE_CHECK(record.holds > 0);
  --record.holds;
  return ForgetIfUnused(record);
}

void SharedFrames::Release(std::vector<Hold> holds) {
  std::vector<std::optional<FrameNumber>> unused;
  {
    absl::MutexLock lock(&lock_);
    for (Hold& hold : holds) {
      QUIRE_CHECK(std::exchange(hold.owner_, nullptr) == this);
      if (const std::optional<FrameNumber> frame = UnholdLocked(hold.frame())) unused.push_back(frame);
    }
  }
  for (const std::optional<FrameNumber>& frame : unused) Free(frame);
}

std::optional<ShareLink> SharedFrames::Join(const Hold& hold, Sharer sharer) {
  absl::MutexLock lock(&lock_);
  Record& record = RecordOf(hold.frame());
  if (record.retired || record.count >= max_sharing_) return std::nullopt;
  return JoinLocked(record, sharer);
}

ShareLink SharedFrames::JoinLocked(Record& record, Sharer sharer) {
  ++record.count;
  return chains_.Add(record.pages, sharer);
}

void SharedFrames::Leave(FrameNumber frame, ShareLink link) {
  std::optional<FrameNumber> unused;
  {
    absl::MutexLock lock(&lock_);
    Record& record = RecordOf(frame);
    chains_.Remove(record.pages, link);
    QUIRE_CHECK(record.count > 0);
    --record.count;
    unused = ForgetIfUnused(record);
  }
  Free(unused);
}

std::optional<FrameNumber> SharedFrames::ForgetIfUnused(Record& record) {
  if (record.count > 0 || record.holds > 0) return std::nullopt;
  Unindex(record);
  const FrameNumber frame = std::exchange(record.frame, FrameDescriptor::kNoFrame);
  free_records_.push_back(static_cast<uint32_t>(&record - records_.data()));
  if (record.poisoned) {
    pool_.RetireFrame(frame);
    return std::nullopt;
  }
  pool_.arena().frames().Set(frame, FrameDescriptor::Busy());
  return frame;
}

void SharedFrames::Free(std::optional<FrameNumber> frame) {
  if (frame.has_value()) pool_.FreeFrame(*frame);
}

void SharedFrames::Unindex(Record& record) {
  const auto known = by_hash_.find(record.hash);
  if (known != by_hash_.end() && &records_[known->second] == &record) by_hash_.erase(known);
}

// --- The reverse map.

SharedFrames::Record& SharedFrames::RecordOf(FrameNumber frame) {
  const FrameDescriptor descriptor = pool_.arena().frames().Get(frame);
  QUIRE_CHECK(descriptor.is(FrameKind::kShared));
  return records_[descriptor.shared_number()];
}

const SharedFrames::Record& SharedFrames::RecordOf(FrameNumber frame) const {
  return const_cast<SharedFrames*>(this)->RecordOf(frame);
}

SharedFrames::Sharers SharedFrames::SharersOf(const Hold& hold) const {
  absl::MutexLock lock(&lock_);
  Sharers sharers;
  chains_.ForEach(RecordOf(hold.frame()).pages, [&](Sharer sharer, ShareLink) { sharers.push_back(sharer); });
  return sharers;
}

uint64_t SharedFrames::HashOf(const Hold& hold) const {
  absl::MutexLock lock(&lock_);
  return RecordOf(hold.frame()).hash;
}

void SharedFrames::Retire(const Hold& hold) {
  absl::MutexLock lock(&lock_);
  Record& record = RecordOf(hold.frame());
  record.retired = true;
  Unindex(record);
}

void SharedFrames::Poison(const Hold& hold) {
  absl::MutexLock lock(&lock_);
  Record& record = RecordOf(hold.frame());
  record.retired = record.poisoned = true;
  Unindex(record);
}

// Rare enough to look at all of them.
std::optional<SharedFrames::Hold> SharedFrames::FindLike(const Hold& hold) {
  absl::MutexLock lock(&lock_);
  const Record& wanted = RecordOf(hold.frame());
  Record* found = nullptr;
  for (Record& record : records_) {
    if (record.frame == FrameDescriptor::kNoFrame || record.hash != wanted.hash || record.retired) continue;
    if (found == nullptr || record.count < found->count) found = &record;
  }
  if (found == nullptr) return std::nullopt;
  return HoldLocked(*found);
}

bool SharedFrames::IsFull(const Hold& hold) const {
  absl::MutexLock lock(&lock_);
  return RecordOf(hold.frame()).count >= max_sharing_;
}

void SharedFrames::NoteUsed(FrameNumber frame) {
  absl::MutexLock lock(&lock_);
  RecordOf(frame).used = true;
}

bool SharedFrames::WasUsed(const Hold& hold) {
  absl::MutexLock lock(&lock_);
  return std::exchange(RecordOf(hold.frame()).used, false);
}

std::optional<SharedFrames::Hold> SharedFrames::Next() {
  absl::MutexLock lock(&lock_);
  for (size_t looked = 0; looked < records_.size(); ++looked) {
    Record& record = records_[hand_++ % records_.size()];
    if (record.frame != FrameDescriptor::kNoFrame && record.holds == 0) return HoldLocked(record);
  }
  return std::nullopt;
}

// --- What there is.

PageCount SharedFrames::frames() const {
  absl::MutexLock lock(&lock_);
  return PageCount(records_.size() - free_records_.size());
}

PageCount SharedFrames::sharers() const {
  absl::MutexLock lock(&lock_);
  return chains_.size();
}

ByteCount SharedFrames::metadata() const {
  absl::MutexLock lock(&lock_);
  return ByteCount::Bytes(records_.capacity() * (sizeof(Record) + sizeof(uint32_t)) +
                          by_hash_.capacity() * (sizeof(std::pair<uint64_t, uint32_t>) + 1)) +
         chains_.metadata();
}

bool SharedFrames::Has(FrameNumber frame, ShareLink link, Sharer sharer) const {
  absl::MutexLock lock(&lock_);
  return pool_.arena().frames().Get(frame).is(FrameKind::kShared) && chains_.IsOf(link, sharer) &&
         chains_.Has(RecordOf(frame).pages, link);
}

absl::Status SharedFrames::Check() const {
  absl::MutexLock lock(&lock_);
  uint64_t links = 0;
  for (const Record& record : records_) {
    if (record.frame == FrameDescriptor::kNoFrame) continue;
    links += record.count;
    if (absl::Status status = CheckChain(record); !status.ok()) return status;
  }
  if (links == chains_.size().in_pages()) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("shared frames: ", links, " pages are counted, but ", chains_.size().in_pages(), " have links"));
}

absl::Status SharedFrames::CheckChain(const Record& record) const {
  const auto broken = [&](absl::string_view what) {
    return absl::InternalError(absl::StrCat("invariant 14: shared frame ", record.frame.value(), " ", what));
  };
  const FrameDescriptor descriptor = pool_.arena().frames().Get(record.frame);
  if (!descriptor.is(FrameKind::kShared) || &records_[descriptor.shared_number()] != &record) {
    return broken("has another descriptor");
  }
  if (record.holds > 0) return broken("is held, and nobody is at work");
  if (record.count == 0 || record.count > max_sharing_) return broken("has no pages, or too many");
  const std::optional<size_t> length = chains_.LengthOf(record.pages);
  if (!length.has_value()) return broken("has a broken chain");
  return length == record.count ? absl::OkStatus() : broken("counts other pages than its chain has");
}

}  // namespace quire
