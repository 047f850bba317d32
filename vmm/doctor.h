// `quire doctor`: what this host offers, what that means for guests, and how to get what is missing.
#ifndef QUIRE_VMM_DOCTOR_H_
#define QUIRE_VMM_DOCTOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "vmm/exit_status.h"
#include "vmm/host.h"

namespace quire {

enum class Grade : uint8_t {
  kOk,
  kReduced,  // guests run, but slower, or with less certainty
  kMissing,  // something that guests could use cannot be used at all
};

struct Finding {
  std::string name = {};
  Grade grade = Grade::kOk;
  std::string found = {};  // what the host offers
  std::string means = {};  // what follows for guests
  std::string fix = {};    // how to get what is missing; empty where nothing is
};

struct Diagnosis {
  std::vector<Finding> findings;
  bool runs = false;    // whether `quire run` can run anything here
  std::string accel;    // "kvm" or "soft"
  std::string pool;     // "tmpfs" or "memfd"
  bool huge = false;    // whether the pool holds 2 MiB pages
  std::string verdict;  // a sentence: what `quire run` will use, or why it cannot run
};

// May fork: call before threads are started.
Diagnosis Diagnose(const Host& host);

std::string ToText(const Diagnosis& diagnosis);
std::string ToJson(const Diagnosis& diagnosis);

ExitStatus ToExitStatus(const Diagnosis& diagnosis);

}  // namespace quire

#endif  // QUIRE_VMM_DOCTOR_H_
