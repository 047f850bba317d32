#include "guest/reclaim/reclaimer.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "base/check.h"

namespace quire {
namespace {

// Rounds of MakeRoom in which nobody freed anything, before memory counts as exhausted. Few suffice when there was
// nothing left to try. As long as guests take back what is taken out, or blocks are in other hands, the next round may
// do better; but guests that are at work in more memory than there is, none of which compresses, do so for ever.
constexpr int kPatience = 60;
constexpr int kCostOfStirredRound = 1;
constexpr int kCostOfIdleRound = kPatience / 3;
// What is left of it after two rounds at least, when hard work is a better use of the time than more of them.
constexpr int kPatienceToSqueeze = kPatience - 2 * kCostOfStirredRound;

// How long to leave blocks to those who have them in hand, when there is nothing else to do.
constexpr absl::Duration kLeaveToOthers = absl::Milliseconds(1);

// How long the daemon rests after it could free nothing.
constexpr absl::Duration kRest = absl::Milliseconds(10);

}  // namespace

Reclaimer::Reclaimer(Pool& pool, std::function<void(GuestMemory&)> out_of_memory, int threads)
    : pool_(pool), out_of_memory_(std::move(out_of_memory)) {
  QUIRE_CHECK(threads >= 1);
  workers_.push_back(std::make_unique<Worker>(*this, pool.watermarks().high));
  for (int i = 1; i < threads; ++i) workers_.push_back(std::make_unique<Worker>(*this, pool.watermarks().low));
}

Reclaimer::~Reclaimer() = default;

void Reclaimer::Start() {
  for (const auto& worker : workers_) worker->daemon().Start();
}

void Reclaimer::Stop() {
  for (const auto& worker : workers_) worker->daemon().Stop();
}

void Reclaimer::Wake() {
  const PageCount free = pool_.FreePages();
  for (const auto& worker : workers_) {
    if (free < worker->enough()) worker->daemon().Wake();
  }
}

absl::Duration Reclaimer::cpu_time() {
  absl::Duration sum;
  for (const auto& worker : workers_) sum += worker->daemon().cpu_time();
  return sum;
}

void Reclaimer::ReclaimTo(PageCount enough, EvictionScratch& scratch, Daemon& daemon) {
  counters_.daemon_wakes.Add();
  const PageCount free = pool_.FreePages();
  if (shrink_ && free < enough) shrink_(enough - free);
  while (pool_.FreePages() < enough) {
    PageCount freed = Reclaim(kBatch, scratch);
    if (reclaim_shared_) freed += reclaim_shared_(freed == PageCount());
    if (daemon.stopping()) return;
    // Nothing to be had now; a fault that needs memory will say so again.
    if (freed == PageCount()) {
      daemon.Rest(kRest);
      return;
    }
  }
}

void Reclaimer::Enqueue(Block& block) {
  absl::MutexLock lock(&lock_);
  Push(&Queues::in, block);
}

// Once in a guest's life, when it has its first limit: what it has queued by then is looked for among all there is.
void Reclaimer::Track(GuestMemory& guest) {
  absl::MutexLock lock(&lock_);
  std::unique_ptr<Queues>& own = own_[&guest];
  if (own != nullptr) return;
  own = std::make_unique<Queues>(&Block::guest_links);
  for (const Which which : {&Queues::in, &Queues::out}) {
    (all_.*which).ForEach([&](Block& block) {
      if (block.guest == &guest) ((*own).*which).PushBack(block);
    });
  }
}

Reclaimer::Queues* Reclaimer::OwnQueues(const GuestMemory& guest) const {
  const auto own = own_.find(&guest);
  return own == own_.end() ? nullptr : own->second.get();
}

void Reclaimer::Push(Which which, Block& block) {
  (all_.*which).PushBack(block);
  if (Queues* const own = OwnQueues(*block.guest)) (own->*which).PushBack(block);
}

Block* Reclaimer::Pop(Queues& from, Which which) {
  Block* const block = (from.*which).front();
  (all_.*which).Remove(*block);
  if (Queues* const own = OwnQueues(*block->guest)) (own->*which).Remove(*block);
  return block;
}

void Reclaimer::Forget(GuestMemory& guest) {
  absl::MutexLock lock(&lock_);
  const auto none_in_hand = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) { return !in_hand_.contains(&guest); };
  lock_.Await(absl::Condition(&none_in_hand));
  const auto of_guest = [&](const Block& block) { return block.guest == &guest; };
  all_.in.RemoveIf(of_guest);
  all_.out.RemoveIf(of_guest);
  if (Queues* const own = OwnQueues(guest)) {
    own->in.RemoveIf(of_guest);
    own->out.RemoveIf(of_guest);
    own_.erase(&guest);
  }
}

Reclaimer::Step Reclaimer::TakeBlocks(const GuestMemory* of, Blocks& blocks) {
  blocks.clear();
  absl::MutexLock lock(&lock_);
  Queues& from = of == nullptr ? all_ : *OwnQueues(*of);
  if (from.in.empty() || (!from.out.empty() && !from.OutIsShort(0))) {
    if (from.out.empty()) return Step::kNone;
    blocks.push_back(Pop(from, &Queues::out));
    ++in_hand_[blocks[0]->guest];
    return Step::kEvict;
  }
  do {
    blocks.push_back(Pop(from, &Queues::in));
    ++in_hand_[blocks[0]->guest];
  } while (blocks.size() < GuestMemory::kMostAgedTogether && from.OutIsShort(blocks.size()) && !from.in.empty() &&
           from.in.front()->guest == blocks[0]->guest &&
           from.in.front()->number.value() == blocks.back()->number.value() + 1);
  return Step::kAge;
}

GuestMemory::Standing Reclaimer::PutBack(Block& block, Step step) {
  const GuestMemory::Standing standing = block.guest->Settle(block);
  absl::MutexLock lock(&lock_);
  if (standing != GuestMemory::Standing::kNoFrames) {
    // After aging, a block with pages out waits for eviction, even if others of its pages are in use. After eviction,
    // what is left was touched or could not be stored, and goes the whole way again.
    Push(step == Step::kAge && standing == GuestMemory::Standing::kSomeOut ? &Queues::out : &Queues::in, block);
  }
  const auto hand = in_hand_.find(block.guest);
  if (--hand->second == 0) in_hand_.erase(hand);
  return standing;
}

Reclaimer::Round Reclaimer::ReclaimRound(PageCount target, EvictionScratch& scratch, const GuestMemory* of) {
  size_t steps;
  {
    absl::MutexLock lock(&lock_);
    const Queues& queues = of == nullptr ? all_ : *OwnQueues(*of);
    steps = 2 * (queues.in.size() + queues.out.size()) + 2;
  }
  Round round;
  Blocks blocks;
  while (round.freed < target && steps > 0) {
    const Step step = TakeBlocks(of, blocks);
    if (step == Step::kNone) break;
    steps -= std::min(steps, blocks.size());
    GuestMemory& guest = *blocks[0]->guest;
    if (step == Step::kAge) {
      counters_.aged_blocks.Add(blocks.size());
      const PageCount aged = guest.AgeBlocks(blocks[0]->number, blocks.size());
      counters_.aged_pages.Add(aged.in_pages());
      round.stirred |= aged > PageCount();
    } else {
      round.freed += guest.Evict(*blocks[0], scratch);
    }
    for (Block* const block : blocks) {
      // What is all in after it was aged is in use, or was locked by somebody.
      round.stirred |= PutBack(*block, step) == GuestMemory::Standing::kAllIn && step == Step::kAge;
    }
  }
  counters_.evicted_pages.Add(round.freed.in_pages());
  absl::MutexLock lock(&lock_);
  round.others = of == nullptr ? !in_hand_.empty() : in_hand_.contains(of);
  round.stirred |= round.others;
  return round;
}

bool Reclaimer::ReclaimFrom(GuestMemory& guest, PageCount wanted) {
  counters_.at_limit.Add();
  EvictionScratch scratch;
  for (int patience = kPatience; !guest.stopped();) {
    const Round round = ReclaimRound(std::max(kBatch, wanted), scratch, &guest);
    // What was stored as it is gives no memory to the pool, but the guest does not hold it any more.
    if (round.freed > PageCount() || guest.HasRoomFor(wanted)) return true;
    patience -= round.stirred ? kCostOfStirredRound : kCostOfIdleRound;
    if (patience <= 0) return false;
    absl::SleepFor(kLeaveToOthers);
  }
  return false;
}

absl::Status Reclaimer::MakeRoom(GuestMemory& guest, PageCount wanted) {
  counters_.direct.Add();
  Wake();
  if (shrink_ && shrink_(wanted) >= wanted) return absl::OkStatus();
  EvictionScratch scratch;
  int patience = kPatience;
  bool squeezed = squeeze_ == nullptr;
  for (uint64_t seen = counters_.evicted_pages.value(); !guest.stopped();) {
    const Round round = ReclaimRound(std::max(kBatch, wanted), scratch);
    if (round.freed > PageCount()) return absl::OkStatus();
    if (counters_.evicted_pages.value() != seen) return absl::OkStatus();  // somebody else freed something
    if (reclaim_shared_ && reclaim_shared_(true) > PageCount()) return absl::OkStatus();
    patience -= round.stirred ? kCostOfStirredRound : kCostOfIdleRound;
    if (!squeezed && patience <= kPatienceToSqueeze) {
      squeezed = true;  // what it cannot do now it cannot do a millisecond later
      if (squeeze_()) return absl::OkStatus();
    }
    if (patience > 0) {
      if (squeezed || round.others) absl::SleepFor(kLeaveToOthers);
      continue;
    }
    out_of_memory_(guest);
    patience = kPatience;
    if (!guest.stopped()) return absl::OkStatus();
  }
  return guest.status();
}

}  // namespace quire
