// What is to be done about a host's memory: from what is observed and a policy to decisions, each with its reason. Does
// nothing itself, and takes the time as an argument.
//
// How much there is to divide. The host is
//   short     less than the reserve is available, until 1.25 times that is
//   balanced  in between
//   plenty    more than 1.5 times the reserve is available
// Short of memory, the domains together are to have what they take of the host now, less what is missing to 1.25 times
// the reserve; balanced, what they have; in plenty, as much more as is available beyond 1.25 times the reserve, and
// nothing is taken from any. The gaps between the states, and the deadband, are what keeps it from oscillating.
//
// How it is divided: by shares and the tax on idle memory (allocation.h), within each domain's bounds, of which the
// lower one is never less than its working set (working_set.h) and some headroom.
#ifndef QUIRE_VMM_LIBVIRT_MANAGE_CONTROLLER_H_
#define QUIRE_VMM_LIBVIRT_MANAGE_CONTROLLER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/units.h"
#include "vmm/libvirt/manage/observation.h"
#include "vmm/libvirt/manage/policy.h"
#include "vmm/libvirt/manage/working_set.h"

namespace quire {

struct BalloonDecision {
  std::string uuid;
  std::string name;
  ByteCount from;
  ByteCount to;
  std::string why;
};

struct SoftLimitDecision {
  std::string uuid;
  std::string name;
  std::optional<ByteCount> to = {};  // nothing: what it was before
  std::string why = {};
};

struct KsmDecision {
  std::optional<bool> run = {};
  std::optional<uint64_t> pages_to_scan = {};
  std::optional<uint64_t> sleep_millisecs = {};
  std::string why = {};
};

// A domain as the controller sees it.
struct DomainView {
  std::string name;
  double shares = 0;
  ByteCount current = {};                     // its memory, less what the balloon holds
  std::optional<ByteCount> working_set = {};  // nothing: not known
  ByteCount least = {};                       // its bounds at present
  ByteCount most = {};
  ByteCount target = {};
  std::string left_alone = {};  // why, if it is
};

struct Decisions {
  std::string host = {};  // a sentence about its state
  std::vector<DomainView> domains = {};
  std::vector<BalloonDecision> balloons = {};  // those that shrink first
  std::vector<SoftLimitDecision> soft_limits = {};
  std::optional<KsmDecision> ksm = {};
  std::vector<std::string> notes = {};  // sentences that are worth saying once
};

// Belongs to one thread.
class Controller {
 public:
  enum class HostState : uint8_t { kPlenty, kBalanced, kShort };

  explicit Controller(Policy policy) : policy_(std::move(policy)) {}

  // What is to be done now. Times do not go back.
  Decisions Decide(const Observation& observation, MonotonicTime now);

  // A decision has been carried out; or it cannot be, and the domain is left alone from now on.
  void BalloonIsSet(const std::string& uuid, ByteCount target, MonotonicTime now);
  void BalloonIsRefused(const std::string& uuid);
  void SoftLimitIsSet(const std::string& uuid, std::optional<ByteCount> limit);
  void SoftLimitIsRefused(const std::string& uuid);

  HostState state() const { return state_; }

 private:
  struct DomainState {
    int id = 0;
    WorkingSet working_set = {};
    bool known = false;  // whether the working set is, at present
    std::string unknown_because = {};
    // What was asked for last, and how far the guest has come.
    std::optional<ByteCount> target = {};
    bool reached = false;
    ByteCount seen = {};          // its memory when it has moved last
    MonotonicTime moved_at = {};  // and when that was, or when it was asked to
    std::optional<MonotonicTime> given_up_at = {};
    bool balloon_refused = false, soft_limit_refused = false;
    std::optional<ByteCount> soft_limit = {};
  };
  // A domain in this round.
  struct Seat {
    const DomainObservation* domain = nullptr;
    const DomainPolicy* policy = nullptr;
    DomainState* state = nullptr;
    std::string left_alone = {};
    // In bytes:
    double base = 0;       // what it has been asked to have, or has
    double footprint = 0;  // what of that it takes of the host
    double least = 0;      // its bounds at present
    double most = 0;
    double active = 0;
    double target = 0;
  };

  std::vector<Seat> TakeSeats(const Observation& observation, MonotonicTime now, Decisions& decisions);
  void Follow(const DomainObservation& domain, DomainState& state, MonotonicTime now, Decisions& decisions) const;
  std::string LeftAlone(const DomainObservation& domain, const DomainPolicy& policy, const DomainState& state) const;
  void SetBounds(Seat& seat) const;
  void UpdateHostState(const HostObservation& host);
  double Budget(const HostObservation& host, const std::vector<Seat>& seats) const;
  void Divide(double budget, std::vector<Seat>& seats) const;
  double Limited(const Seat& seat, double wanted) const;
  std::string Why(const Seat& seat) const;
  void DecideBalloons(const std::vector<Seat>& seats, Decisions& decisions) const;
  void DecideSoftLimits(const std::vector<Seat>& seats, Decisions& decisions) const;
  void DecideKsm(const HostObservation& host, Decisions& decisions);

  const Policy policy_;
  std::map<std::string, DomainState> states_;  // by UUID
  HostState state_ = HostState::kPlenty;
  bool pressed_ = false;  // by PSI
  bool merging_ = false;
  ByteCount reserve_ = {};    // at present
  ByteCount available_ = {};  // at the last look
};

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_MANAGE_CONTROLLER_H_
