#include "guest/merge/shared_frames.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire {

SharedFrames::~SharedFrames() { QUIRE_CHECK(frames() == PageCount()); }

// --- Pages come and go.

SharedFrames::Hold SharedFrames::Publish(FrameNumber frame, uint64_t hash) {
  absl::MutexLock lock(&lock_);
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
  return HoldLocked(record);
}

ShareLink SharedFrames::AddLink(Record& record, Sharer sharer) {
  if (free_links_.empty()) {
    free_links_.push_back(static_cast<uint32_t>(links_.size()));
    links_.emplace_back();
  }
  const uint32_t number = free_links_.back();
  free_links_.pop_back();
  links_[number] = Link{.sharer = Pack(sharer), .next = record.first, .previous = kNone};
  if (record.first != kNone) links_[record.first].previous = number;
  record.first = number;
  ++record.count;
  return ShareLink(number);
}

uint32_t SharedFrames::OfferedLocked(uint64_t hash) const {
  const auto known = by_hash_.find(hash);
  return known == by_hash_.end() || records_[known->second].count >= max_sharing_ ? kNone : known->second;
}

bool SharedFrames::Offers(uint64_t hash) const {
  absl::MutexLock lock(&lock_);
  return OfferedLocked(hash) != kNone;
}

std::optional<SharedFrames::Hold> SharedFrames::Find(uint64_t hash) {
  absl::MutexLock lock(&lock_);
  const uint32_t number = OfferedLocked(hash);
  if (number == kNone) return std::nullopt;
  return HoldLocked(records_[number]);
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
    Record& record = RecordOf(frame);
    QUIRE_CHECK(record.holds > 0);
    --record.holds;
    unused = ForgetIfUnused(record);
  }
  Free(unused);
}

std::optional<ShareLink> SharedFrames::Join(const Hold& hold, Sharer sharer) {
  absl::MutexLock lock(&lock_);
  Record& record = RecordOf(hold.frame());
  if (record.retired || record.count >= max_sharing_) return std::nullopt;
  return AddLink(record, sharer);
}

void SharedFrames::Leave(FrameNumber frame, ShareLink link) {
  std::optional<FrameNumber> unused;
  {
    absl::MutexLock lock(&lock_);
    Record& record = RecordOf(frame);
    const uint32_t number = static_cast<uint32_t>(link.value());
    const Link gone = links_[number];
    (gone.previous == kNone ? record.first : links_[gone.previous].next) = gone.next;
    if (gone.next != kNone) links_[gone.next].previous = gone.previous;
    free_links_.push_back(number);
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
  for (uint32_t link = RecordOf(hold.frame()).first; link != kNone; link = links_[link].next) {
    sharers.push_back(Unpack(links_[link].sharer));
  }
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
  return PageCount(links_.size() - free_links_.size());
}

ByteCount SharedFrames::metadata() const {
  absl::MutexLock lock(&lock_);
  return ByteCount::Bytes(records_.capacity() * (sizeof(Record) + sizeof(uint32_t)) +
                          links_.capacity() * (sizeof(Link) + sizeof(uint32_t)) +
                          by_hash_.capacity() * (sizeof(std::pair<uint64_t, uint32_t>) + 1));
}

bool SharedFrames::Has(FrameNumber frame, ShareLink link, Sharer sharer) const {
  absl::MutexLock lock(&lock_);
  if (!pool_.arena().frames().Get(frame).is(FrameKind::kShared) || link.value() >= links_.size()) return false;
  for (uint32_t at = RecordOf(frame).first; at != kNone; at = links_[at].next) {
    if (at == link.value()) return links_[at].sharer == Pack(sharer);
  }
  return false;
}

absl::Status SharedFrames::Check() const {
  absl::MutexLock lock(&lock_);
  uint64_t links = 0;
  for (const Record& record : records_) {
    if (record.frame == FrameDescriptor::kNoFrame) continue;
    links += record.count;
    if (absl::Status status = CheckChain(record); !status.ok()) return status;
  }
  if (links == links_.size() - free_links_.size()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("shared frames: ", links, " pages are counted, but ",
                                          links_.size() - free_links_.size(), " have links"));
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
  uint32_t count = 0;
  uint32_t previous = kNone;
  for (uint32_t at = record.first; at != kNone; previous = at, at = links_[at].next, ++count) {
    if (count > record.count || links_[at].previous != previous) return broken("has a broken chain");
  }
  return count == record.count ? absl::OkStatus() : broken("counts other pages than its chain has");
}

}  // namespace quire
