#include "vmm/pool_probe.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "gtest/gtest.h"

namespace quire {
namespace {

constexpr uid_t kNobody = 65534;

// Whether `holds` in a child process, which may give up its privileges.
bool InChild(const std::function<bool()>& holds) {
  const pid_t child = fork();
  if (child == 0) _exit(holds() ? 0 : 1);
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// A process that changes its user owns its files in /proc again once it is made dumpable, as by execve().
bool BecomeNobody() {
  if (geteuid() != 0) return true;
  return setgid(kNobody) == 0 && setuid(kNobody) == 0 && prctl(PR_SET_DUMPABLE, 1) == 0;
}

bool MayMakeUserNamespaces() {
  return InChild([] { return BecomeNobody() && unshare(CLONE_NEWUSER) == 0; });
}

TEST(PoolProbeTest, ThereIsAPoolWhateverTheHostPermits) { EXPECT_TRUE(ProbePool().created.ok()); }

TEST(PoolProbeTest, AnUnprivilegedUserHasAPrivateMountToo) {
  if (!MayMakeUserNamespaces()) GTEST_SKIP() << "this host permits no user namespaces";
  EXPECT_TRUE(InChild([] { return BecomeNobody() && ProbePool().tmpfs; }));
}

TEST(PoolProbeTest, APrivateMountHasHugePagesUnlessTheHostDeniesThem) {
  const PoolOffer offer = ProbePool();
  if (!offer.tmpfs) GTEST_SKIP() << "no tmpfs can be mounted here";
  if (!offer.huge) GTEST_SKIP() << "this host gives no huge pages to files in memory";
  EXPECT_EQ(offer.collapse_error, 0);
}

}  // namespace
}  // namespace quire
