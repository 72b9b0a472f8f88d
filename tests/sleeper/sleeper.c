/* The private image's only program: runs until it is told to stop. As process 1 it would not be ended by a signal it
 * does not ask for, and each pod's deletion would last its whole grace period. */
#include <signal.h>

int main(void) {
    sigset_t stop;
    int received;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    sigprocmask(SIG_BLOCK, &stop, 0);
    return sigwait(&stop, &received);
}
