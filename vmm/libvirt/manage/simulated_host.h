// A host with guests that behave as Linux does, for tests of the controller: what they use and cache, a balloon that
// takes its time, and figures that are never quite the same twice.
#ifndef QUIRE_VMM_LIBVIRT_MANAGE_SIMULATED_HOST_H_
#define QUIRE_VMM_LIBVIRT_MANAGE_SIMULATED_HOST_H_

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fake_clock.h"
#include "base/units.h"
#include "vmm/libvirt/manage/controller.h"
#include "vmm/libvirt/manage/observation.h"
#include "vmm/libvirt/manage/policy.h"

namespace quire {

struct SimulatedGuest {
  std::string name = {};
  double maximum = 0;  // MiB, as all that follows
  double uses = 0;     // and cannot drop
  bool fills = true;   // what is left with caches
  double has = 0;      // less what its balloon holds; 0: all at first
  int id = 1;
  bool follows = true;
  bool speaks = true;
  double touched = 0;     // of `has`, by now
  double target = 0;      // of its balloon
  double swapped_in = 0;  // since its start
};

class SimulatedHost {
 public:
  SimulatedHost(double total, const Policy& policy) : total_(total), policy_(policy), controller_(policy) {}

  SimulatedGuest& Add(SimulatedGuest guest) {
    if (guest.has == 0) guest.has = guest.maximum;
    guest.target = guest.has;
    guest.touched = guest.fills ? guest.has : guest.uses;
    const std::string name = guest.name;
    return guests_[name] = std::move(guest);
  }
  void Remove(const std::string& name) { guests_.erase(name); }
  SimulatedGuest& guest(const std::string& name) { return guests_.at(name); }
  Controller& controller() { return controller_; }

  double others = 0;    // MiB that something else on the host takes
  double pressure = 0;  // percent
  double noise = 0;     // of all figures, as a part
  bool obey = true;     // carry decisions out

  double available() const {
    double taken = others;
    for (const auto& [name, guest] : guests_) taken += guest.touched;
    return std::max(0.0, total_ - taken);
  }

  Observation Observe() {
    Observation seen = {.time = now(),
                        .host = {.total = MiB(total_), .available = Noisy(available()), .pressure = pressure}};
    for (const auto& [name, guest] : guests_) seen.domains.push_back(Observe(guest));
    return seen;
  }

  // A second passes for the guests.
  void Tick() {
    clock_.Advance(absl::Seconds(1));
    for (auto& [name, guest] : guests_) Live(guest);
  }

  // Time passes up to the next round, which is then held.
  Decisions Round() {
    for (absl::Duration passed; passed < policy_.interval; passed += absl::Seconds(1)) Tick();
    return Decide(Observe());
  }
  Decisions Decide(const Observation& observation) {
    Decisions decisions = controller_.Decide(observation, clock_.Now());
    if (obey) {
      for (const BalloonDecision& decision : decisions.balloons) {
        guests_.at(decision.name).target = decision.to.in_mib();
        controller_.BalloonIsSet(decision.uuid, decision.to, clock_.Now());
      }
      for (const SoftLimitDecision& decision : decisions.soft_limits) {
        controller_.SoftLimitIsSet(decision.uuid, decision.to);
      }
    }
    return decisions;
  }

  MonotonicTime monotonic() const { return clock_.Now(); }
  absl::Time now() const {
    return absl::FromUnixSeconds(1'700'000'000) + (clock_.Now() - MonotonicTime::FromNanoseconds(0));
  }

 private:
  static ByteCount MiB(double mib) { return ByteCount::Bytes(static_cast<uint64_t>(mib * (1 << 20))); }
  ByteCount Noisy(double mib) {
    return MiB(mib * (1 + noise * std::uniform_real_distribution<double>(-1, 1)(random_)));
  }

  DomainObservation Observe(const SimulatedGuest& guest) {
    const double kernel = guest.maximum / 50;
    DomainObservation seen = {.uuid = absl::StrCat("uuid-of-", guest.name),
                              .name = guest.name,
                              .id = guest.id,
                              .memory = {.maximum = MiB(guest.maximum), .current = MiB(guest.has)}};
    if (!guest.speaks) return seen;
    const double free = std::max(0.0, guest.has - guest.uses);
    seen.stats = {.swap_in = MiB(guest.swapped_in),
                  .unused = MiB(guest.has - std::min(guest.has, guest.touched)),
                  .available = MiB(guest.has - kernel),
                  .usable = std::min(Noisy(free), MiB(guest.has - kernel)),
                  .balloon = MiB(guest.has),
                  .rss = MiB(guest.touched),
                  .updated = absl::FromUnixSeconds(absl::ToUnixSeconds(now()))};
    return seen;
  }

  void Live(SimulatedGuest& guest) {
    constexpr double kBalloonSpeed = 400, kTouchSpeed = 300;  // MiB a second
    if (guest.follows) guest.has += std::clamp(guest.target - guest.has, -kBalloonSpeed, kBalloonSpeed);
    const double wants = std::min(guest.has, guest.fills ? guest.has : guest.uses);
    guest.touched = std::min(guest.has, guest.touched + std::clamp(wants - guest.touched, 0.0, kTouchSpeed));
    guest.swapped_in += std::max(0.0, guest.uses - guest.has) / 10;
  }

  const double total_;
  const Policy policy_;
  Controller controller_;
  FakeClock clock_;
  std::map<std::string, SimulatedGuest> guests_;
  std::mt19937_64 random_{1};
};

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_MANAGE_SIMULATED_HOST_H_
