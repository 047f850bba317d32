#include "vmm/phase_runner.h"

#include <algorithm>

#include "absl/status/status.h"
#include "base/thread.h"
#include "vmm/machine/pc_devices.h"
#include "vmm/virtio/balloon.h"

namespace quire {
namespace {

// How often it is looked whether guests have filled their memory, or one has died.
constexpr absl::Duration kLook = absl::Milliseconds(20);

}  // namespace

PhaseRunner::PhaseRunner(const Schedule& schedule, GuestSet& set, MonotonicTime start)
    : schedule_(schedule), set_(set), start_(start), begun_(start), next_(start) {
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
  for (const GuestSet::Guest& guest : set_.guests()) {
    if (guest.group != order.group) continue;
    if (!guest.machine->started()) return false;
    ++guests;
  }
  // The last one has as much time to itself as each other had.
  return AllFilled() && now >= begun_ + order.every * guests;
}

bool PhaseRunner::AllFilled() const {
  return std::all_of(set_.guests().begin(), set_.guests().end(), [](const GuestSet::Guest& guest) {
    return !guest.machine->started() || guest.machine->finished() || guest.machine->ReadProgress().phase > 0;
  });
}

void PhaseRunner::Begin(const Phase& phase, MonotonicTime now) {
  phase_ = &phase;
  begun_ = now;
  news_ = true;
  before_ = Count();
  phases_.push_back(
      {.name = phase.name, .begin_seconds = absl::ToDoubleSeconds(now - start_), .measured = phase.measured});
  for (const size_t group : phase.start) {
    ForGroup(group, [](const GuestSet::Guest& guest) {
      if (!guest.machine->started()) guest.machine->Start();
    });
  }
  for (const size_t group : phase.stop) {
    ForGroup(group, [](const GuestSet::Guest& guest) { guest.machine->RequestStop(); });
  }
  for (const auto& [group, percent] : phase.idle_percent) {
    ForGroup(group, [percent = percent](const GuestSet::Guest& guest) { guest.machine->SetIdle(percent); });
  }
  for (const auto& [group, size] : phase.balloon) {
    ForGroup(group, [pages = PageCount(size.in_bytes() / kPageSize)](const GuestSet::Guest& guest) {
      if (guest.pc != nullptr) guest.pc->devices().balloon().SetTarget(pages);
    });
  }
  if (phase.one_by_one.has_value()) StartNext(now);
  phases_.back().guests = Running();
}

void PhaseRunner::StartNext(MonotonicTime now) {
  const Phase::OneByOne& order = *phase_->one_by_one;
  uint64_t started = 0;
  for (const GuestSet::Guest& guest : set_.guests()) {
    if (guest.group != order.group) continue;
    if (guest.machine->started()) {
      ++started;
      continue;
    }
    if (now < begun_ + order.every * started || !AllFilled() || AnyoneStoppedForMemory()) return;
    guest.machine->Start();
    news_ = true;
    return;
  }
}

void PhaseRunner::End(MonotonicTime now) {
  const Totals after = Count();
  PhaseReport& phase = phases_.back();
  phase.end_seconds = absl::ToDoubleSeconds(now - start_);
  phase.operations = after.operations - before_.operations;
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

PhaseRunner::Totals PhaseRunner::Count() const {
  Totals totals{.cpu = ProcessCpuTime()};
  for (const GuestSet::Guest& guest : set_.guests()) {
    totals.operations += guest.machine->ReadProgress().operations;
    if (guest.memory != nullptr) totals.faults += guest.memory->faults();
    guest.machine->AddLatency(totals.latency);
  }
  return totals;
}

uint64_t PhaseRunner::Running() const {
  return static_cast<uint64_t>(
      std::count_if(set_.guests().begin(), set_.guests().end(), [](const GuestSet::Guest& guest) {
        return guest.machine->started() && !guest.machine->finished() && guest.machine->ReadProgress().phase > 0;
      }));
}

bool PhaseRunner::AllHaveEnded() const {
  return std::all_of(set_.guests().begin(), set_.guests().end(), [](const GuestSet::Guest& guest) {
    return guest.machine->started() && guest.machine->finished();
  });
}

bool PhaseRunner::AnyoneStoppedForMemory() const {
  return std::any_of(set_.guests().begin(), set_.guests().end(),
                     [](const GuestSet::Guest& guest) { return absl::IsResourceExhausted(guest.machine->exit()); });
}

template <class Do>
void PhaseRunner::ForGroup(size_t group, Do what) {
  for (const GuestSet::Guest& guest : set_.guests()) {
    if (guest.group == group) what(guest);
  }
}

}  // namespace quire
