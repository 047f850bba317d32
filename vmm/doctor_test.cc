#include "vmm/doctor.h"

#include <cerrno>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "vmm/fake_host.h"

namespace quire {
namespace {

Finding Find(const FakeHost& host, const std::string& name) {
  for (const Finding& finding : Diagnose(host).findings) {
    if (finding.name == name) return finding;
  }
  ADD_FAILURE() << "no check is named " << name;
  return {};
}

Grade GradeOf(const FakeHost& host, const std::string& name) { return Find(host, name).grade; }

TEST(DoctorTest, AGoodHostHasNothingToMend) {
  const Diagnosis diagnosis = Diagnose(GoodHost());
  for (const Finding& finding : diagnosis.findings) {
    EXPECT_EQ(finding.grade, Grade::kOk) << finding.name << ": " << finding.found;
    EXPECT_EQ(finding.fix, "") << finding.name;
    EXPECT_NE(finding.found, "") << finding.name;
    EXPECT_NE(finding.means, "") << finding.name;
  }
  EXPECT_EQ(diagnosis.verdict,
            "`quire run` will use a tmpfs pool with 2 MiB pages and accel=kvm, because KVM works here.");
  EXPECT_EQ(ToExitStatus(diagnosis), ExitStatus::kAllWell);
}

TEST(DoctorTest, WhatIsNotOkSaysHowToMendIt) {
  FakeHost host;  // knows nothing
  host.cpus = 1;
  host.kvm = {.open_error = ENOENT};
  host.userfaultfd = {.syscall_error = EPERM, .device_error = ENOENT};
  host.pool = {};
  for (const Finding& finding : Diagnose(host).findings) {
    EXPECT_EQ(finding.grade == Grade::kOk, finding.fix.empty()) << finding.name;
  }
}

TEST(DoctorTest, WithoutKvmSoftwareVcpusRun) {
  FakeHost host = GoodHost();
  host.kvm = {.open_error = EACCES};
  const Diagnosis diagnosis = Diagnose(host);
  EXPECT_EQ(GradeOf(host, "kvm"), Grade::kMissing);
  EXPECT_EQ(diagnosis.verdict,
            "`quire run` will use a tmpfs pool with 2 MiB pages and accel=soft, because /dev/kvm may not be opened by "
            "this user.");
  EXPECT_EQ(ToExitStatus(diagnosis), ExitStatus::kAllWell);
}

TEST(DoctorTest, WithoutAPoolNothingRuns) {
  FakeHost host = GoodHost();
  host.pool = {.created = absl::UnavailableError("memfd_create: Operation not permitted")};
  const Diagnosis diagnosis = Diagnose(host);
  EXPECT_EQ(GradeOf(host, "pool"), Grade::kMissing);
  EXPECT_EQ(diagnosis.verdict, "`quire run` cannot run anything here: there is no file to keep guests' memory in.");
  EXPECT_EQ(ToExitStatus(diagnosis), ExitStatus::kHostLacks);
}

TEST(DoctorTest, WithoutMemoryNothingRuns) {
  FakeHost host = GoodHost();
  host.files["/sys/fs/cgroup/memory.max"] = "16777216\n";
  EXPECT_EQ(GradeOf(host, "cgroup"), Grade::kMissing);
  EXPECT_EQ(Diagnose(host).verdict, "`quire run` cannot run anything here: there is no memory for a guest.");
}

TEST(DoctorTest, KernelsByWhatTheyLack) {
  FakeHost host = GoodHost();
  host.files["/proc/sys/kernel/osrelease"] = "5.10.0\n";
  EXPECT_EQ(GradeOf(host, "kernel"), Grade::kMissing);
  host.files["/proc/sys/kernel/osrelease"] = "5.15.0\n";
  EXPECT_EQ(GradeOf(host, "kernel"), Grade::kReduced);
  host.files["/proc/sys/kernel/osrelease"] = "6.1.0\n";
  EXPECT_EQ(GradeOf(host, "kernel"), Grade::kOk);
}

TEST(DoctorTest, NestedPagingByModule) {
  FakeHost host = GoodHost();
  host.files["/sys/module/kvm_intel/parameters/ept"] = "N\n";
  EXPECT_EQ(GradeOf(host, "nested paging"), Grade::kReduced);
  host.files.erase("/sys/module/kvm_intel/parameters/ept");
  EXPECT_EQ(GradeOf(host, "nested paging"), Grade::kOk);  // no module, so nothing is known to be wrong
  host.files["/sys/module/kvm_pvm"] = "";
  EXPECT_EQ(GradeOf(host, "nested paging"), Grade::kReduced);
  host.files["/sys/module/kvm_amd/parameters/npt"] = "1\n";
  EXPECT_EQ(GradeOf(host, "nested paging"), Grade::kOk);
}

TEST(DoctorTest, UserfaultfdNamesItsFeatures) {
  FakeHost host = GoodHost();
  host.userfaultfd = {.syscall_error = EPERM, .features = 1 << 5 | 1 << 10 | 1 << 14};
  EXPECT_EQ(Find(host, "userfaultfd").found, "by /dev/userfaultfd: MISSING_SHMEM MINOR_SHMEM POISON");
}

TEST(DoctorTest, APoolOfSmallPagesSaysWhatItCosts) {
  FakeHost host = GoodHost();
  host.pool = {};
  EXPECT_EQ(GradeOf(host, "pool"), Grade::kReduced);
  EXPECT_EQ(Find(host, "pool").found, "a memfd, for a tmpfs cannot be mounted, with 4 KiB pages only");
  EXPECT_TRUE(absl::StrContains(Find(host, "pool").means, "more faults"));
  EXPECT_EQ(GradeOf(host, "whole blocks"), Grade::kReduced);
  EXPECT_TRUE(absl::StrContains(Diagnose(host).verdict, "a memfd pool with 4 KiB pages"));
}

TEST(DoctorTest, CollapseIsTried) {
  FakeHost host = GoodHost();
  host.pool.collapse_error = EINVAL;
  EXPECT_EQ(Find(host, "whole blocks").found, "MADV_COLLAPSE fails on the pool (Invalid argument)");
}

TEST(DoctorTest, HugePageSettings) {
  FakeHost host = GoodHost();
  EXPECT_EQ(Find(host, "huge pages").found, "transparent_hugepage: enabled=madvise shmem_enabled=never defrag=madvise");
  host.files["/sys/kernel/mm/transparent_hugepage/shmem_enabled"] = "always advise never [deny]\n";
  EXPECT_EQ(GradeOf(host, "huge pages"), Grade::kReduced);
}

TEST(DoctorTest, SwapIsHarmlessWhereThePoolOptsOut) {
  FakeHost host = GoodHost();
  host.files["/proc/meminfo"] = "MemTotal: 16384000 kB\nMemAvailable: 12288000 kB\nSwapTotal: 1048576 kB\n";
  EXPECT_EQ(GradeOf(host, "host swap"), Grade::kOk);
  host.files["/proc/sys/kernel/osrelease"] = "6.1.0\n";
  EXPECT_EQ(GradeOf(host, "host swap"), Grade::kReduced);
  host.files["/proc/sys/kernel/osrelease"] = "6.12.0\n";
  host.files["/proc/self/status"] = "CapEff:\t0000000000000000\n";
  EXPECT_EQ(GradeOf(host, "host swap"), Grade::kReduced);
}

TEST(DoctorTest, ACgroupLimitCountsWhereItIsLowerThanTheMemory) {
  FakeHost host = GoodHost();
  host.files["/sys/fs/cgroup/memory.max"] = "1073741824\n";
  EXPECT_EQ(GradeOf(host, "cgroup"), Grade::kReduced);
  EXPECT_EQ(Find(host, "cgroup").found, "memory is limited to 1 GiB");
  host.files["/sys/fs/cgroup/memory.max"] = "107374182400\n";
  EXPECT_EQ(GradeOf(host, "cgroup"), Grade::kOk);
}

TEST(DoctorTest, FewMappings) {
  FakeHost host = GoodHost();
  host.files["/proc/sys/vm/max_map_count"] = "1000\n";
  EXPECT_EQ(GradeOf(host, "mappings"), Grade::kReduced);
}

TEST(DoctorTest, TheTextIsNarrowAndEndsWithTheVerdict) {
  FakeHost host = GoodHost();
  host.kvm = {.open_error = ENOENT};
  const Diagnosis diagnosis = Diagnose(host);
  const std::string text = ToText(diagnosis);
  EXPECT_TRUE(absl::StrContains(text,
                                "missing  kvm             /dev/kvm does not exist, for the KVM module is not loaded\n"
                                "                         Guests run on software vCPUs: "));
  EXPECT_TRUE(absl::StrContains(
      text, "                         To get it: load the module as root with `modprobe kvm_intel`.\n"));
  EXPECT_TRUE(absl::EndsWith(text, "\n\n" + diagnosis.verdict + "\n"));
}

TEST(DoctorTest, TheJsonHasAllThatTheTextHas) {
  const Diagnosis diagnosis = Diagnose(GoodHost());
  const nlohmann::json json = nlohmann::json::parse(ToJson(diagnosis));
  EXPECT_EQ(json["runs"], true);
  EXPECT_EQ(json["accel"], "kvm");
  EXPECT_EQ(json["pool"], "tmpfs");
  EXPECT_EQ(json["pages"], "huge");
  EXPECT_EQ(json["verdict"], diagnosis.verdict);
  ASSERT_EQ(json["findings"].size(), diagnosis.findings.size());
  EXPECT_EQ(json["findings"][0]["name"], "kernel");
  EXPECT_EQ(json["findings"][0]["grade"], "ok");
  EXPECT_EQ(json["findings"][0]["found"], "Linux 6.12");
  EXPECT_TRUE(json["findings"][0].contains("means"));
  EXPECT_TRUE(json["findings"][0].contains("fix"));
}

}  // namespace
}  // namespace quire
