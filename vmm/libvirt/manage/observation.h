// What one look at a host and its domains shows.
#ifndef QUIRE_VMM_LIBVIRT_MANAGE_OBSERVATION_H_
#define QUIRE_VMM_LIBVIRT_MANAGE_OBSERVATION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/units.h"
#include "vmm/libvirt/connection.h"

namespace quire {

struct HostKsm {
  std::optional<uint64_t> run = {};  // of /sys/kernel/mm/ksm; nothing: not known, as of another host
  uint64_t pages_to_scan = 0;
  uint64_t sleep_millisecs = 0;
};

struct HostObservation {
  ByteCount total = {};
  ByteCount available = {};             // without swapping
  std::optional<double> pressure = {};  // percent of the last 10 s in which something waited for memory (PSI)
  std::optional<HostKsm> ksm = {};      // nothing: there is none, or nobody wants to know
};

struct DomainObservation {
  std::string uuid = {};
  std::string name = {};
  int id = 0;  // another one after each start
  DomainMemory memory = {};
  DomainMemoryStats stats = {};  // what is not known is nothing
};

struct Observation {
  absl::Time time = {};  // by the host's clock, which statistics have too
  HostObservation host = {};
  std::vector<DomainObservation> domains = {};
};

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_MANAGE_OBSERVATION_H_
