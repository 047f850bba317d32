// How a host's domains are to be managed: a policy, read from a TOML file. docs/libvirt.md describes its keys.
#ifndef QUIRE_VMM_LIBVIRT_MANAGE_POLICY_H_
#define QUIRE_VMM_LIBVIRT_MANAGE_POLICY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/units.h"

namespace quire {

// A size, or a part of another one.
struct Amount {
  std::optional<ByteCount> size = {};
  double part = 0;  // where there is no size

  static Amount Part(double part) { return {.part = part}; }
  ByteCount Of(ByteCount whole) const;
};

struct DomainPolicy {
  std::string name = "*";  // a glob(7) pattern
  bool manage = true;
  double shares = 1000;  // of memory that is short, against other domains' shares
  // The bounds of its memory; parts are of the domain's maximum.
  Amount min = Amount::Part(0.25);
  Amount max = Amount::Part(1);
};

struct Policy {
  absl::Duration interval = absl::Seconds(5);  // from one round to the next

  struct Host {
    Amount reserve = Amount::Part(0.1);  // of the host's memory, to stay available
    double pressure = 10;                // stall in percent (PSI) from which on the reserve counts twice
  } host = {};

  struct Balloon {
    bool enabled = true;
    double tax = 0.75;       // on idle memory: 0 none, close to 1 all of it
    double headroom = 0.15;  // beyond the working set, as a part of it
    double step = 0.1;       // most change in a round, as a part of the domain's maximum
    double deadband = 0.01;  // of the target: less is not worth a change
  } balloon = {};

  struct Ksm {
    bool enabled = false;
    Amount below = Amount::Part(0.2);  // available memory of the host: below that it merges
    int64_t least_pages = 64;          // each time that ksmd wakes
    int64_t most_pages = 1250;
    int64_t boost = 300;  // more pages in each round in which memory is short
    int64_t decay = 50;   // less in each other
    int64_t sleep_millisecs = 20;
  } ksm = {};

  struct Memtune {
    bool soft_limits = false;
    ByteCount overhead = ByteCount::MiB(256);  // of a domain's process beside its guest's memory
  } memtune = {};

  DomainPolicy defaults = {};              // of domains that no pattern matches
  std::vector<DomainPolicy> domains = {};  // the first that matches counts

  const DomainPolicy& For(const std::string& name) const;
};

// Reads and checks it; `file` is for messages. Errors: InvalidArgument, "FILE:LINE: what is wrong, and what would be
// right".
absl::StatusOr<Policy> ParsePolicy(absl::string_view file, absl::string_view text);

// The same of a file. Errors: also InvalidArgument, it cannot be read.
absl::StatusOr<Policy> ReadPolicy(const std::string& path);

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_MANAGE_POLICY_H_
