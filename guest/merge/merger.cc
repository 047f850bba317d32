#include "guest/merge/merger.h"

#include <algorithm>
#include <utility>

#include "absl/random/random.h"
#include "base/thread.h"

namespace quire {
namespace {

// Pages of a whole block that have to be merged together to make up for the 2 MiB page that it loses: an eighth of them
// when memory is short, and nearly all when it is not.
constexpr size_t kSplittingPays = kPagesPerBlock / 8;
constexpr size_t kSplittingIsFree = kPagesPerBlock * 7 / 8;

// A pass in which less than one page in fifty was gained, less those that were lost again because somebody wrote to
// them, makes the next one slower.
constexpr int64_t kGoodYield = 50;

// How long the scanner works before it rests, about.
constexpr absl::Duration kAtATime = absl::Milliseconds(2);

// Pages that are scanned before they are merged, if their block is in pieces: with the frames that they are compared
// with they fit into a second-level cache of half a megabyte.
constexpr PageCount kScannedAtOnce(64);
static_assert(kPagesPerBlock % kScannedAtOnce.in_pages() == 0);

// The least time from pass to pass, for guests of which nothing is looked at.
constexpr absl::Duration kBetweenPasses = absl::Milliseconds(200);

// How many passes leave a page out that did not merge in so many (mm/ksm.c, skip_age).
int SkipFor(int age) {
  if (age < 3) return 0;
  if (age < 5) return 1;
  return age < 8 ? 2 : 8;
}

constexpr int kMostAge = 15;

// A page that was written to while it was shared, that its guest cannot map, or that is wired, counts as one that did
// not merge for so many passes.
constexpr int kAgeOfBroken = 8;

MergeRefusal RefusalOf(GuestMemory::Merge::Outcome outcome) {
  using Outcome = GuestMemory::Merge::Outcome;
  switch (outcome) {
    case Outcome::kMerged:
      return MergeRefusal::kNone;
    case Outcome::kBusy:
      return MergeRefusal::kBusy;
    case Outcome::kChanged:
      return MergeRefusal::kChanged;
    case Outcome::kFull:
      return MergeRefusal::kFull;
    case Outcome::kNoMemory:
      return MergeRefusal::kNoMemory;
    case Outcome::kCannot:
      return MergeRefusal::kMapping;
    case Outcome::kWired:
      return MergeRefusal::kWired;
  }
  return MergeRefusal::kNone;
}

Sharer PageOf(const GuestMemory& guest, Gfn gfn) {
  return {.guest = GuestId{static_cast<uint16_t>(guest.id())}, .gfn = gfn};
}

GuestMemory::Merge Into(const SharedFrames::Hold& hold, const GuestMemory::PageSample& sample) {
  return {.gfn = sample.gfn, .into = GuestMemory::Merge::Into::kFrame, .hash = sample.hash, .hold = &hold};
}

}  // namespace

absl::string_view Name(MergeRefusal refusal) {
  switch (refusal) {
    case MergeRefusal::kNone:
      return "it was not refused";
    case MergeRefusal::kUnique:
      return "no page like it was found";
    case MergeRefusal::kChanged:
      return "it changes";
    case MergeRefusal::kFresh:
      return "it is zero for the first time";
    case MergeRefusal::kBroken:
      return "it was written to while it was shared";
    case MergeRefusal::kWholeBlock:
      return "its block is whole";
    case MergeRefusal::kBusy:
      return "it was in other hands";
    case MergeRefusal::kLost:
      return "the page that it was like has changed";
    case MergeRefusal::kFull:
      return "as many pages share the frame as may";
    case MergeRefusal::kNoMemory:
      return "no memory for a shared frame";
    case MergeRefusal::kMapping:
      return "mapping_limit";
    case MergeRefusal::kWired:
      return "wired";
  }
  return "";
}

Merger::Merger(Pool& pool, SharedFrames& shared, CandidateTable candidates, WithGuests with_guests,
               const MergerOptions& options)
    : pool_(pool),
      shared_(shared),
      with_guests_(std::move(with_guests)),
      options_(options),
      seed_(absl::Uniform<uint64_t>(absl::BitGen())),
      candidates_(std::move(candidates)),
      cpu_(options.most_cpu) {}

// --- The thread.

void Merger::Run() {
  while (!daemon_.stopping()) {
    const absl::Duration begin = ThreadCpuTime();
    bool more = true;
    double share;
    do {
      absl::MutexLock lock(&lock_);
      if (!on()) return;  // under the lock: SetOn waits for the piece in hand
      with_guests_([&](Guests guests) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) { more = ScanNext(guests); });
      share = cpu_;
    } while (more && ThreadCpuTime() - begin < kAtATime && !daemon_.stopping());
    const absl::Duration rest = (ThreadCpuTime() - begin) * ((1 - share) / share);
    daemon_.Rest(more ? rest : std::max(rest, kBetweenPasses));
  }
}

void Merger::SetOn(bool on) {
  on_.store(on, std::memory_order_relaxed);
  if (on) return daemon_.Wake();
  absl::MutexLock wait_for_the_piece_in_hand(&lock_);
}

void Merger::Pass() {
  absl::MutexLock lock(&lock_);
  bool more = true;
  while (more) {
    with_guests_([&](Guests guests) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) { more = ScanNext(guests); });
  }
}

bool Merger::ScanNext(Guests guests) {
  const auto has = [](Gfn page) { return [page](const auto& guest) { return Gfn(0) + guest->size() > page; }; };
  auto guest = std::lower_bound(guests.begin(), guests.end(), guest_,
                                [](const auto& g, unsigned wanted) { return g->id() < wanted; });
  guest = std::find_if(guest, guests.end(), has(next_));
  if (guest == guests.end()) {
    next_ = next_ + kScannedAtOnce;
    guest = std::find_if(guests.begin(), guests.end(), has(next_));
  }
  if (guest == guests.end()) {
    EndPass(guests);
    return false;
  }
  guest_ = (*guest)->id() + 1;
  ScanPiece(guests, **guest, next_);
  return true;
}

void Merger::EndPass(Guests guests) {
  counters_.passes.Add();
  candidates_.Clear();
  guest_ = 0;
  next_ = Gfn(0);
  done_.clear();
  absl::erase_if(marks_, [&](const auto& marks) { return FindGuest(guests, GuestId(marks.first)) == nullptr; });
  const uint64_t scanned = counters_.scanned.value() - std::exchange(scanned_before_, counters_.scanned.value());
  const uint64_t gained = counters_.merged.value() + counters_.zero.value();
  const uint64_t lost = counters_.Refused(MergeRefusal::kBroken);
  const auto yield = static_cast<int64_t>(gained - std::exchange(gained_before_, gained)) -
                     static_cast<int64_t>(lost - std::exchange(lost_before_, lost));
  const bool good = scanned > 0 && yield * kGoodYield >= static_cast<int64_t>(scanned);
  cpu_ = good ? options_.most_cpu : std::max(cpu_ / 2, options_.least_cpu);
}

// --- Pages of a block.

void Merger::ScanPiece(Guests guests, GuestMemory& guest, Gfn first) {
  if (guest.stopped() || !guest.HasFrames(BlockOf(first))) return;
  if (const auto done = done_.find(guest.id()); done != done_.end() && first < done->second) return;
  std::vector<Mark>& marks = marks_[guest.id()];
  if (marks.empty()) marks.resize(guest.size().in_pages());
  if (!guest.IsWhole(BlockOf(first))) return ScanPages(guests, guest, marks, GfnRange(first, kScannedAtOnce));
  // What is gained by taking a whole block apart is decided for all of it. One that was in pieces a moment ago waits.
  if (IndexInBlock(first) != 0) return;
  done_[guest.id()] = first + kOneBlock;
  ScanPages(guests, guest, marks, GfnRange(first, kOneBlock));
}

GuestMemory::HowToSample Merger::HowToSample(Mark& mark) {
  if (mark.skip == 0) return mark.seen ? GuestMemory::HowToSample::kWhole : GuestMemory::HowToSample::kGlance;
  --mark.skip;
  counters_.skipped.Add();
  return GuestMemory::HowToSample::kNot;
}

void Merger::ScanPages(Guests guests, GuestMemory& guest, std::vector<Mark>& marks, GfnRange range) {
  const BlockNumber number = BlockOf(range.begin());
  samples_.clear();
  guest.SamplePages(
      range, seed_, [&](Gfn gfn) { return HowToSample(marks[gfn.value()]); }, samples_);
  counters_.scanned.Add(samples_.size());
  samples_.erase(std::remove_if(samples_.begin(), samples_.end(),
                                [&](const GuestMemory::PageSample& sample) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
                                  return !IsSettled(marks[sample.gfn.value()], sample);
                                }),
                 samples_.end());

  // What may be gained, and by which earlier pages.
  merges_.clear();
  pairs_.clear();
  std::vector<SharedFrames::Hold> holds = MatchSamples(guest, marks);
  const size_t zeros = merges_.size() - holds.size(), found = holds.size() + pairs_.size();
  if (found + zeros == 0) return;
  // While memory is plentiful, zero pages of a whole block are most likely to be written to yet.
  if ((IsMemoryShort() ? found + zeros : found) < SplittingPays() && guest.IsWhole(number)) {
    for (const GuestMemory::PageSample& sample : samples_) {
      Mark& mark = marks[sample.gfn.value()];
      if (mark.why == MergeRefusal::kNone) Refuse(mark, MergeRefusal::kWholeBlock);
    }
    // The earlier pages are not the only ones of their kind either.
    for (const Pair& pair : pairs_) {
      const auto of_other = marks_.find(static_cast<unsigned>(pair.other.guest));
      if (of_other != marks_.end()) of_other->second[pair.other.gfn.value()].why = MergeRefusal::kWholeBlock;
    }
    return;
  }
  ShareOthers(guests, pairs_);
  for (const Pair& pair : pairs_) {
    const GuestMemory::PageSample& sample = samples_[pair.sample];
    if (std::optional<SharedFrames::Hold> hold = shared_.Find(sample.hash)) {
      holds.push_back(*std::move(hold));
      merges_.push_back(Into(holds.back(), sample));
    } else {
      // The other page has changed: this one stands for the content now.
      candidates_.Replace(sample.hash, PageOf(guest, sample.gfn));
      Mark& mark = marks[sample.gfn.value()];
      if (mark.why == MergeRefusal::kNone) Refuse(mark, MergeRefusal::kLost);
    }
  }
  if (!pairs_.empty()) {
    std::sort(merges_.begin(), merges_.end(), [](const auto& a, const auto& b) { return a.gfn < b.gfn; });
  }
  guest.MergePages(number, seed_, absl::MakeSpan(merges_));
  shared_.Release(std::move(holds));
  for (const GuestMemory::Merge& merge : merges_) {
    Mark& mark = marks[merge.gfn.value()];
    if (merge.outcome != GuestMemory::Merge::Outcome::kMerged) {
      RefuseUnmerged(mark, merge.outcome);
      continue;
    }
    (merge.into == GuestMemory::Merge::Into::kNothing ? counters_.zero : counters_.merged).Add();
    mark = Mark{};
    mark.merged = true;
  }
}

std::vector<SharedFrames::Hold> Merger::MatchSamples(const GuestMemory& guest, std::vector<Mark>& marks) {
  hashes_.clear();
  for (const GuestMemory::PageSample& sample : samples_) {
    hashes_.push_back(sample.hash);
    if (!sample.zero) candidates_.Prefetch(sample.hash);
  }
  std::vector<std::optional<SharedFrames::Hold>> shared = shared_.FindAll(hashes_);
  std::vector<SharedFrames::Hold> holds;
  holds.reserve(samples_.size());
  for (size_t i = 0; i < samples_.size(); ++i) {
    const GuestMemory::PageSample& sample = samples_[i];
    Mark& mark = marks[sample.gfn.value()];
    mark.why = MergeRefusal::kNone;
    if (sample.zero) {
      merges_.push_back({.gfn = sample.gfn, .into = GuestMemory::Merge::Into::kNothing});
    } else if (shared[i].has_value()) {
      holds.push_back(*std::move(shared[i]));
      merges_.push_back(Into(holds.back(), sample));
    } else {
      const Sharer page = PageOf(guest, sample.gfn);
      const std::optional<Sharer> other = candidates_.FindOrInsert(sample.hash, page);
      if (other.has_value() && *other != page) {
        pairs_.push_back({.sample = i, .other = *other});
      } else {
        Refuse(mark, MergeRefusal::kUnique);
        Postpone(mark, 1);
      }
    }
  }
  return holds;
}

bool Merger::IsMemoryShort() const { return pool_.FreePages() < pool_.comfortable(); }

size_t Merger::SplittingPays() const { return IsMemoryShort() ? kSplittingPays : kSplittingIsFree; }

bool Merger::IsSettled(Mark& mark, const GuestMemory::PageSample& sample) {
  // What is zero for the first time has perhaps just been brought in, to be written to.
  const bool changed = mark.seen ? mark.hash != (sample.hash & 0x3f) : sample.zero;
  const bool broken = mark.merged;
  mark.hash = sample.hash & 0x3f;
  mark.seen = true;
  mark.merged = false;
  if (broken) {
    Refuse(mark, MergeRefusal::kBroken);
  } else if (changed) {
    Refuse(mark, sample.zero ? MergeRefusal::kFresh : MergeRefusal::kChanged);
  }
  if (broken || (changed && !sample.zero)) Postpone(mark, broken ? kAgeOfBroken : 1);
  return !broken && !changed;
}

void Merger::Postpone(Mark& mark, int passes) {
  mark.age = static_cast<uint8_t>(std::min<int>(mark.age + passes, kMostAge)) & 0xf;
  mark.skip = static_cast<uint8_t>(SkipFor(mark.age)) & 0xf;
}

void Merger::Refuse(Mark& mark, MergeRefusal why) {
  counters_.refused[static_cast<size_t>(why)].Add();
  mark.why = why;
}

void Merger::RefuseUnmerged(Mark& mark, GuestMemory::Merge::Outcome outcome) {
  const bool lasts = outcome == GuestMemory::Merge::Outcome::kCannot || outcome == GuestMemory::Merge::Outcome::kWired;
  Refuse(mark, RefusalOf(outcome));
  Postpone(mark, lasts ? kAgeOfBroken : 1);
}

Merger::Memory Merger::Recall(GuestId guest, Gfn gfn) const {
  absl::MutexLock lock(&lock_);
  const auto marks = marks_.find(static_cast<unsigned>(guest));
  if (marks == marks_.end() || gfn.value() >= marks->second.size()) return {};
  const Mark& mark = marks->second[gfn.value()];
  return {.why = mark.why, .skip = mark.skip};
}

void Merger::ShareOthers(Guests guests, absl::Span<const Pair> pairs) {
  struct Other {
    Sharer page;
    uint64_t hash;
  };
  std::vector<Other> others;
  for (const Pair& pair : pairs) others.push_back({.page = pair.other, .hash = samples_[pair.sample].hash});
  std::sort(others.begin(), others.end(), [](const Other& a, const Other& b) {
    return std::pair(a.page.guest, a.page.gfn) < std::pair(b.page.guest, b.page.gfn);
  });
  for (size_t begin = 0; begin < others.size();) {
    const Sharer first = others[begin].page;
    Merges merges;
    size_t end = begin;
    for (; end < others.size() && others[end].page.guest == first.guest &&
           BlockOf(others[end].page.gfn) == BlockOf(first.gfn);
         ++end) {
      if (!merges.empty() && merges.back().gfn == others[end].page.gfn) continue;
      merges.push_back(
          {.gfn = others[end].page.gfn, .into = GuestMemory::Merge::Into::kNewFrame, .hash = others[end].hash});
    }
    begin = end;
    GuestMemory* const guest = FindGuest(guests, first.guest);
    if (guest == nullptr) continue;
    std::vector<Mark>& marks = marks_[guest->id()];
    if (merges.size() < SplittingPays() && guest->IsWhole(BlockOf(first.gfn))) {
      for (const GuestMemory::Merge& merge : merges) Refuse(marks[merge.gfn.value()], MergeRefusal::kWholeBlock);
      continue;
    }
    guest->MergePages(BlockOf(first.gfn), seed_, absl::MakeSpan(merges));
    for (const GuestMemory::Merge& merge : merges) {
      Mark& mark = marks[merge.gfn.value()];
      mark.merged = merge.outcome == GuestMemory::Merge::Outcome::kMerged;
      mark.why = MergeRefusal::kNone;
      if (!mark.merged) RefuseUnmerged(mark, merge.outcome);
    }
  }
}

double Merger::cpu_share() const {
  absl::MutexLock lock(&lock_);
  return cpu_;
}

ByteCount Merger::metadata() const {
  absl::MutexLock lock(&lock_);
  uint64_t marks = 0;
  for (const auto& [guest, of_guest] : marks_) marks += of_guest.size() * sizeof(Mark);
  return candidates_.metadata() + ByteCount::Bytes(marks);
}

}  // namespace quire
