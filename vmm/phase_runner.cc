#include "vmm/phase_runner.h"

#include <algorithm>

namespace quire {
namespace {

using State = ScheduledGuests::State;

// How often it is looked whether guests have filled their memory, or one has died.
constexpr absl::Duration kLook = absl::Milliseconds(20);

}  // namespace

PhaseRunner::PhaseRunner(const Schedule& schedule, ScheduledGuests& guests, MonotonicTime start)
    : schedule_(schedule), guests_(guests), start_(start), begun_(start), next_(start) {
  phases_.push_back({.name = std::string(kFill)});
}

bool PhaseRunner::Advance(MonotonicTime now) {
  next_ = now + kLook;
  phases_.back().guests = std::max(phases_.back().guests, Running());
  if (phase_ != nullptr && phase_->one_by_one.has_value()) StartNext(now);
  while (PhaseIsOver(now)) {
    End(now);
    if (number_ == schedule_.phases.size()) return false;
    Begin(schedule_.phases[number_++], now);
  }
  if (phase_ != nullptr) next_ = std::min(next_, begun_ + phase_->duration);
  return true;
}

bool PhaseRunner::PhaseIsOver(MonotonicTime now) const {
  if (AllHaveEnded()) return true;
  if (phase_ == nullptr) return AllFilled() || now >= begun_ + schedule_.fill_limit;
  if (now >= begun_ + phase_->duration) return true;
  return phase_->one_by_one.has_value() && (AnyoneStoppedForMemory() || AllHaveCome(now));
}

bool PhaseRunner::AllHaveCome(MonotonicTime now) const {
  const Phase::OneByOne& order = *phase_->one_by_one;
  int64_t guests = 0;
  bool all_started = true;
  ForGroup(order.group, [&](size_t guest) {
    all_started &= guests_.StateOf(guest).started;
    ++guests;
  });
  // The last one has as much time to itself as each other had.
  return all_started && AllFilled() && now >= begun_ + order.every * guests;
}

bool PhaseRunner::AllFilled() const {
  return CountIf([](const State& guest) { return guest.started && !guest.finished && !guest.filled; }) == 0;
}

void PhaseRunner::Begin(const Phase& phase, MonotonicTime now) {
  phase_ = &phase;
  begun_ = now;
  news_ = true;
  before_ = guests_.CountAll();
  phases_.push_back(
      {.name = phase.name, .begin_seconds = absl::ToDoubleSeconds(now - start_), .measured = phase.measured});
  for (const size_t group : phase.start) {
    ForGroup(group, [this](size_t guest) {
      if (!guests_.StateOf(guest).started) guests_.StartGuest(guest);
    });
  }
  for (const size_t group : phase.stop) {
    ForGroup(group, [this](size_t guest) { guests_.StopGuest(guest); });
  }
  for (const auto& [group, percent] : phase.idle_percent) {
    ForGroup(group, [this, percent = percent](size_t guest) { guests_.SetIdle(guest, percent); });
  }
  for (const auto& [group, size] : phase.balloon) {
    ForGroup(group, [this, size = size](size_t guest) { guests_.SetBalloon(guest, size); });
  }
  if (phase.one_by_one.has_value()) StartNext(now);
  phases_.back().guests = Running();
}

void PhaseRunner::StartNext(MonotonicTime now) {
  const Phase::OneByOne& order = *phase_->one_by_one;
  uint64_t started = 0;
  for (size_t guest = 0; guest < guests_.count(); ++guest) {
    if (guests_.GroupOf(guest) != order.group) continue;
    if (guests_.StateOf(guest).started) {
      ++started;
      continue;
    }
    if (now < begun_ + order.every * started || !AllFilled() || AnyoneStoppedForMemory()) return;
    guests_.StartGuest(guest);
    news_ = true;
    return;
  }
}

void PhaseRunner::End(MonotonicTime now) {
  const GuestTotals after = guests_.CountAll();
  PhaseReport& phase = phases_.back();
  phase.end_seconds = absl::ToDoubleSeconds(now - start_);
  // As guests claim, which may take back what they have said.
  phase.operations = std::max(after.operations, before_.operations) - before_.operations;
  phase.faults = after.faults - before_.faults;
  phase.cpu_seconds = absl::ToDoubleSeconds(after.cpu - before_.cpu);
  if (!phase.measured) return;
  for (uint32_t i = 0; i < OperationLatency::kBuckets; ++i) {
    // The guests wrote both: what they say may run backwards.
    latency_.counts[i] += std::max(after.latency.counts[i], before_.latency.counts[i]) - before_.latency.counts[i];
  }
}

std::vector<PhaseReport> PhaseRunner::Finish(MonotonicTime now) {
  // Advance has ended the last one.
  if (phases_.back().end_seconds == 0) End(now);
  return phases_;
}

uint64_t PhaseRunner::Running() const {
  return CountIf([](const State& guest) { return guest.running(); });
}

bool PhaseRunner::AllHaveEnded() const {
  return CountIf([](const State& guest) { return guest.finished; }) == guests_.count();
}

bool PhaseRunner::AnyoneStoppedForMemory() const {
  return CountIf([](const State& guest) { return guest.out_of_memory; }) > 0;
}

template <class Is>
uint64_t PhaseRunner::CountIf(Is is) const {
  uint64_t count = 0;
  for (size_t guest = 0; guest < guests_.count(); ++guest) count += is(guests_.StateOf(guest));
  return count;
}

template <class Do>
void PhaseRunner::ForGroup(size_t group, Do what) const {
  for (size_t guest = 0; guest < guests_.count(); ++guest) {
    if (guests_.GroupOf(guest) == group) what(guest);
  }
}

}  // namespace quire
